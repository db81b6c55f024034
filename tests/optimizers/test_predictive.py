"""Probabilities averaged over the uncertainty of the outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from filtune.optimizers import AdamW, Categorical, Filtune, Gaussian, LoKO
from filtune.optimizers.kalman.predictive import (
    SCALES,
    cubature_predictive,
    output_factor,
    scaled_predictive,
    tempered_predictive,
    update_log_weights,
)
from filtune.optimizers.likelihoods.categorical import difference_variance, predictive_probabilities
from filtune.optimizers.likelihoods.poisson import Poisson
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jacrev

from tests.optimizers.models import drive, labels, mlp, relative, rounding, values
from tests.optimizers.reference import flat, outputs_of


@given(mean=st.floats(-6, 6), deviation=st.floats(0, 5))
@settings(max_examples=40)
def test_two_classes_against_the_integral(mean: float, deviation: float) -> None:
    r"""MacKay's approximation of \int sigma(z) N(z; mu, s^2) dz is off by 2 * 0.0177 at most.

    It takes sigma(z) for Phi(lambda z), lambda^2 = pi / 8, integrates that exactly, and goes back: each time it is off
    by max |sigma(z) - Phi(lambda z)| = 0.0177 at most, for an average of errors is no larger than the largest.
    """
    z = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    weights = torch.exp(-z.square() / 2)
    exact = (torch.sigmoid(mean + deviation * z) * weights).sum() / weights.sum()
    C = torch.zeros(1, 2, 2, dtype=torch.float64)
    C[0, 1, 1] = deviation**2
    p = predictive_probabilities(torch.tensor([[0.0, mean]], dtype=torch.float64), C)
    assert abs(float(p[0, 1] - exact)) < 2 * 0.0178
    assert float(p.sum()) == pytest.approx(1)


def test_more_classes_against_draws() -> None:
    """The mean-field version is an approximation: for moderate variances it is within 0.05 of 100,000 draws, whose
    own deviation is below 0.5 / sqrt(100000) = 0.0016, and nearer to them than the plain softmax."""
    torch.manual_seed(0)
    mean = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    C = torch.diag(torch.tensor([4.0, 1.0, 2.0], dtype=torch.float64)).unsqueeze(0)
    draws = mean + C[0].diag().sqrt() * torch.randn(100_000, 3, dtype=torch.float64)
    exact = draws.softmax(1).mean(0)
    error = (predictive_probabilities(mean, C)[0] - exact).abs().max()
    assert error < 0.05 + 5 * 0.0016
    assert error < (mean.softmax(1)[0] - exact).abs().max()


@given(st.integers(2, 5), st.integers(0, 100))
def test_without_variance_it_is_the_softmax(m: int, seed: int) -> None:
    mean = 3 * torch.randn(4, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(predictive_probabilities(mean, torch.zeros(4, m, m).double()), mean.softmax(1))


def test_variance_of_the_difference() -> None:
    C = torch.tensor([[[2.0, 0.5], [0.5, 3.0]]])
    assert float(difference_variance(C)[0, 0, 1]) == pytest.approx(2 + 3 - 2 * 0.5)
    kappa = 1 / math.sqrt(1 + math.pi * 4 / 8)
    p = predictive_probabilities(torch.tensor([[0.5, 2.0]]), C)
    assert p[0, 1].item() == pytest.approx(1 / (1 + math.exp(-kappa * 1.5)))


@given(m=st.integers(2, 5), B=st.integers(1, 3), seed=st.integers(0, 100))
def test_what_moves_all_outputs_alike_changes_nothing(m: int, B: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mean, common = torch.randn(2, B, m, generator=generator, dtype=torch.float64)
    root = torch.randn(B, m, m, generator=generator, dtype=torch.float64)
    C, ones = root @ root.mT, torch.ones(m, 1, dtype=torch.float64)
    p = predictive_probabilities(mean, C)
    shared = common[:, :1, None]
    shifted = C + shared.square() * (ones @ ones.mT)
    assert relative(predictive_probabilities(mean + common[:, :1], shifted), p) <= rounding(1000, condition=100)
    assert relative(p.sum(1), torch.ones(B, dtype=torch.float64)) <= rounding(10)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("observed", ["mode", "logits"])
def test_the_filters_prediction_is_of_the_outputs_covariance_before_the_update(m: int, B: int, observed: str) -> None:
    """C = JPJ' of the dense Jacobian."""
    model = mlp(m)
    if observed == "mode":
        optimizer = Filtune(model.parameters(), p0_init="constant", dtype="float64")
    else:
        optimizer = LoKO(model.parameters(), p0_init="constant", observation="logits", dtype="float64")
    assert optimizer.predictive() is None
    *first, (x, y) = labels(4, B, m)
    drive(optimizer, model, Categorical, first)
    P = torch.diag(torch.cat([v.flatten() for v in optimizer.variance()]))
    if observed == "mode":
        state = optimizer.filter
        P = torch.linalg.inv(torch.diag(state["precision"]) + state["V"].T @ state["V"])
    J, z = jacrev(outputs_of(model, x))(flat(model)), outputs_of(model, x)(flat(model))
    evidence = optimizer.filter["tempering_log_weights"].clone()
    drive(optimizer, model, Categorical, [(x, y)])
    p = optimizer.predictive()
    assert p is not None
    assert relative(p, tempered_predictive(scaled_predictive(z, J @ P @ J.mT), evidence)) <= rounding(
        2000, condition=100
    )
    learnt = update_log_weights(evidence, scaled_predictive(z, J @ P @ J.mT), y)
    assert relative(optimizer.filter["tempering_log_weights"], learnt) <= rounding(2000, condition=100)


@given(m=st.integers(2, 4), B=st.integers(1, 3), seed=st.integers(0, 100))
def test_the_mixture_cannot_lose_to_the_softmax_by_more_than_the_logarithm_of_the_factors(
    m: int, B: int, seed: int
) -> None:
    """Batches of any mean, covariance and classes, nothing discounted: within a batch its samples are predicted with
    the same weights, so that the sum over batches of the mixture's joint probabilities is what is bounded (B = 1: of
    the samples)."""
    generator = torch.Generator().manual_seed(seed)
    evidence, loss, each = torch.zeros(len(SCALES)).double(), 0.0, torch.zeros(len(SCALES)).double()
    for _ in range(20):
        mean = 3 * torch.randn(B, m, generator=generator, dtype=torch.float64)
        root = torch.randn(B, m, m, generator=generator, dtype=torch.float64)
        classes = torch.randint(m, (B,), generator=generator)
        scaled = scaled_predictive(mean, root @ root.mT)
        every = scaled[:, torch.arange(B), classes]
        loss -= float((evidence.softmax(0) @ every.prod(1)).log())
        each -= every.log().sum(1)
        evidence = update_log_weights(evidence, scaled, classes, discount=1.0)
    assert relative(-evidence, each) <= rounding(2000, condition=100)
    assert loss <= float(each.min()) + math.log(len(SCALES)) + 1e-9
    assert loss <= float(each[0]) + math.log(len(SCALES)) + 1e-9  # the softmax


def test_factors_of_the_covariance() -> None:
    mean, C = torch.tensor([[0.5, 2.0, -1.0]]).double(), torch.diag(torch.tensor([1.0, 4.0, 2.0])).double()[None]
    every = scaled_predictive(mean, C)
    for factor, p in zip(SCALES, every, strict=True):
        torch.testing.assert_close(p, predictive_probabilities(mean, factor * C))
    torch.testing.assert_close(every[0], mean.softmax(1))
    sure = torch.full((len(SCALES),), -1e3).double()
    sure[3] = 0
    torch.testing.assert_close(tempered_predictive(every, sure), every[3])


def test_the_past_is_discounted_and_what_was_impossible_stays_finite() -> None:
    scaled = scaled_predictive(torch.tensor([[0.0, 300.0]]), torch.zeros(1, 2, 2))
    before = torch.arange(len(SCALES)).double()
    after = update_log_weights(before, scaled, torch.tensor([0]), discount=0.5)
    assert after.isfinite().all()
    torch.testing.assert_close(after - after[0], 0.5 * before)


def test_no_prediction_where_the_outputs_uncertainty_is_not_known() -> None:
    model = mlp(3)
    for optimizer in (AdamW(model.parameters()), LoKO(model.parameters())):
        drive(optimizer, model, Categorical, labels(2, 1, 3))
        assert optimizer.predictive() is None
    value = mlp(1)
    optimizer = Filtune(value.parameters())
    drive(optimizer, value, Gaussian, values(2, 1, 1))
    assert optimizer.predictive() is None


def test_integer_targets_that_are_no_classes_are_not_tempered() -> None:
    """Counts as integers, two outputs: the targets are no indices of classes, so no softmax may be weighed by them."""
    model = mlp(2)
    optimizer = Filtune(model.parameters(), rank=4, buffer_size=2, head_reset_scale=10.0, dtype="float64")
    for x, _ in labels(5, 3, 2):
        optimizer.step(lambda x=x: Poisson(model(x)).observe(torch.ones(len(x), 2, dtype=torch.int64)))
    assert optimizer.predictive() is None
    assert optimizer.tempering_log_weights() is None
    assert int(optimizer.filter["changes"]) == 0


@pytest.mark.parametrize("j", [1, 2, 4])
def test_the_cubature_is_exact_for_cubic_functions_of_the_outputs(j: int) -> None:
    """The rule's own promise, on its points; and what it gives are probabilities, the softmax where C is zero."""
    generator = torch.Generator().manual_seed(j)
    mean = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    G = torch.randn(2, 6, j, generator=generator, dtype=torch.float64)
    every = cubature_predictive(mean, G)
    torch.testing.assert_close(every[0], mean.softmax(1))
    torch.testing.assert_close(every.sum(2), torch.ones(len(SCALES), 2, dtype=torch.float64))
    points = torch.cat([mean.unsqueeze(1) + j**0.5 * G.mT, mean.unsqueeze(1) - j**0.5 * G.mT], 1)
    torch.testing.assert_close(every[-1], points.softmax(2).mean(1))
    apart = points - mean.unsqueeze(1)
    torch.testing.assert_close(torch.einsum("bpm,bpn->bmn", apart, apart) / (2 * j), G @ G.mT)
    assert float(torch.einsum("bpm,bpn,bpk->bmnk", apart, apart, apart).abs().max()) <= 1e-12


def test_the_cubature_agrees_with_quadrature_where_the_outputs_are_rather_certain() -> None:
    """The error is of the fourth order in G: a tenth of it gives a ten-thousandth."""
    generator = torch.Generator().manual_seed(0)
    mean, G = torch.randn(1, 5, generator=generator), 0.1 * torch.randn(1, 5, 2, generator=generator)
    mean, G = mean.double(), G.double()
    nodes, weights = (torch.tensor(values) for values in np.polynomial.hermite_e.hermegauss(20))
    weights = weights / weights.sum()
    exact = torch.zeros(5, dtype=torch.float64)
    for a, wa in zip(nodes, weights, strict=True):
        for b, wb in zip(nodes, weights, strict=True):
            exact += wa * wb * (mean[0] + G[0] @ torch.stack([a, b])).softmax(0)
    error = (cubature_predictive(mean, G)[-1, 0] - exact).abs().max()
    halved = cubature_predictive(mean, G / 2)[-1, 0]
    exact_halved = torch.zeros(5, dtype=torch.float64)
    for a, wa in zip(nodes, weights, strict=True):
        for b, wb in zip(nodes, weights, strict=True):
            exact_halved += wa * wb * (mean[0] + G[0] @ torch.stack([a, b]) / 2).softmax(0)
    assert float((halved - exact_halved).abs().max()) <= float(error) / 12  # 16 in the limit


def test_the_factor_is_that_of_the_covariance_in_the_directions_foreseen() -> None:
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(2 * 3, 9, generator=generator, dtype=torch.float64)
    C = torch.linalg.qr(torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)).Q
    M = torch.linalg.qr(torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)).Q.mT
    G = output_factor(root @ root.mT, C.mT, M)
    for b in range(2):
        own = (root @ root.mT)[3 * b : 3 * b + 3, 3 * b : 3 * b + 3]
        D = C[b] @ M[b].mT
        assert relative(G[b] @ G[b].mT, D @ M[b] @ own @ M[b].mT @ D.mT) <= 1e-12
