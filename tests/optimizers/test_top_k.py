"""The k most probable classes are distinguished: the directions, what is exact in them, and all classes as a limit."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import Categorical, Filtune, Gaussian
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.monitors.nis import normalised_innovation_squared, without_target
from filtune.optimizers.kalman.rows import RowSelection
from filtune.optimizers.likelihoods.base import Innovation
from filtune.optimizers.likelihoods.categorical import contrasts_between
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.optimizers.models import drive, labels, linear, relative, values
from tests.optimizers.reference import flat, one_hot, outputs_of

SIZES = {"m": st.integers(4, 30), "B": st.integers(1, 4), "seed": st.integers(0, 10**6), "size": st.floats(0, 60)}


def drawn(m: int, B: int, seed: int, size: float) -> tuple[Tensor, Tensor]:
    """Logits of that size, and labels."""
    generator = torch.Generator().manual_seed(seed)
    z = size * torch.randn(B, m, generator=generator, dtype=torch.float64).clamp(-3, 3)
    return z, torch.randint(m, (B,), generator=generator)


def selected(z: Tensor, y: Tensor, k: int) -> Innovation:
    """The batch observed with k classes distinguished."""
    observation = Categorical(z).observe(y)
    return RowSelection(top_k=k)(observation)


@settings(max_examples=80)
@given(**SIZES)
def test_the_directions_are_orthonormal_and_hold_the_gradient(m: int, B: int, seed: int, size: float) -> None:
    """C'C = I, 1'C = 0, CC'(y - p) = y - p, and those that do not see the label are among them."""
    z, y = drawn(m, B, seed, size)
    for k in range(1, m - 1):
        p, likelihood = z.softmax(1), Categorical(z)
        seen, foreseen = likelihood.contrasts(k, y), likelihood.contrasts(k)
        assert seen is not None
        assert foreseen is not None
        assert foreseen.shape == (B, k, m)
        is_foreseen = bool((p.topk(k, dim=1).indices == y.unsqueeze(1)).any(1).all())
        assert seen.shape == (B, k if is_foreseen else k + 1, m)
        rounding = 8 * m * 2**-52
        for C in (seen.mT, foreseen.mT):
            assert float((C.mT @ C - torch.eye(C.shape[2], dtype=C.dtype)).abs().max()) <= rounding
            assert float(C.sum(1).abs().max()) <= rounding
        for held in ((one_hot(y, m) - p).unsqueeze(-1), foreseen.mT):
            assert float((seen.mT @ (seen @ held) - held).abs().max()) <= rounding


@settings(max_examples=60)
@given(**SIZES)
def test_the_precision_is_that_of_the_softmax_in_these_directions(m: int, B: int, seed: int, size: float) -> None:
    z, y = drawn(m, B, seed, size)
    p, found = z.softmax(1), selected(z, y, 1)
    F = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    assert found.factor is not None
    assert float((found.factor @ found.factor.mT - found.cotangents @ F @ found.cotangents.mT).abs().max()) <= 1e-14
    assert (
        float((found.residual - (found.cotangents @ (one_hot(y, m) - p).unsqueeze(-1)).squeeze(-1)).abs().max())
        <= 1e-14
    )


def test_a_class_held_impossible_is_distinguished_where_it_occurs() -> None:
    """Probabilities that underflow leave the directions finite."""
    z = torch.tensor([[0.0, -2000.0, -3000.0, -4000.0, -5000.0]])
    C = Categorical(z).contrasts(1, torch.tensor([3]))
    assert C is not None
    assert bool(C.isfinite().all())
    assert relative(C @ C.mT, torch.eye(2).expand(1, 2, 2)) <= 1e-6
    unknown = Categorical(torch.full((1, 5), float("nan"))).contrasts(1, torch.tensor([0]))
    assert unknown is not None
    assert not bool(unknown.isinf().any())


@pytest.mark.parametrize("likely", [3, 9])
def test_with_as_many_as_there_are_it_is_the_filter_itself(likely: int) -> None:
    """Four classes have three contrasts: nothing is left out."""
    states = []
    for chosen in (0, likely):
        model = linear(4)
        optimizer = Filtune(model.parameters(), top_k=chosen)
        drive(optimizer, model, Categorical, labels(12, 2, 4))
        assert optimizer.predictive() is not None
        states.append(flat(model))
    assert torch.equal(*states)


@pytest.mark.parametrize(("m", "likely"), [(6, 2), (10, 3)])
def test_the_step_is_to_the_mode_within_these_directions(m: int, likely: int) -> None:
    """By its fixed point in float64: theta moves by P J'C lambda with lambda = C'e(z + C eta)."""
    model = linear(m)
    options = {"covariance": "full", "update": "posterior_mode", "dtype": "float64"}
    optimizer = KalmanOptimizer(model.parameters(), 0.5, top_k=likely, **options)
    (x, y), before = labels(1, 1, m)[0], flat(model)
    z = model(x).detach()
    (C,) = Categorical(z).contrasts(likely, y).mT
    drive(optimizer, model, Categorical, [(x, y)])
    moved = model(x).detach() - z
    # the model is linear in x and its biases, so that JPJ' = 0.5 (|x|^2 + 1) I
    A = 0.5 * (float(x.square().sum()) + 1)
    eta = C.T @ moved[0]
    e = one_hot(y, m)[0] - (z[0] + C @ eta).softmax(0)
    assert float((eta - A * (C.T @ e)).abs().max()) <= 1e-9
    assert relative(C @ eta, moved[0]) <= 1e-12  # nothing moves across them
    assert float((flat(model) - before).norm()) > 0


@pytest.mark.parametrize("likely", [0, 1, 2, 3])
def test_what_is_tested_of_an_innovation_has_the_mean_one(likely: int) -> None:
    """Over labels drawn from the prediction, whatever directions the label would add."""
    p = torch.tensor([0.3, 0.3, 0.05, 0.3, 0.05], dtype=torch.float64)
    expected = 0.0
    for y in range(len(p)):
        innovation = selected(p.log().unsqueeze(0), torch.tensor([y]), likely)
        A = torch.zeros(innovation.residual.numel(), innovation.residual.numel(), dtype=torch.float64)
        expected += float(p[y] * normalised_innovation_squared(*without_target(innovation, A)))
    assert expected == pytest.approx(1, abs=1e-9)


def test_a_prediction_does_not_depend_on_the_label() -> None:
    """Neither its probabilities nor its covariance, though the label decides which rows the update has."""
    found, m = set(), 6
    for label in range(m):
        model = linear(m)
        optimizer = Filtune(model.parameters(), top_k=2, dtype="float64")
        drive(optimizer, model, Categorical, labels(5, 1, m))
        x = torch.ones(1, model.in_features, dtype=torch.float64)
        optimizer.step(lambda model=model, x=x, y=label: Categorical(model(x)).observe(torch.tensor([y])))
        predicted = optimizer.predictive()
        assert predicted is not None
        found.add(tuple((predicted[0] * 1e9).round().tolist()))
    assert len(found) == 1


@pytest.mark.parametrize("k", [1, 2])
def test_the_covariance_of_the_outputs_is_whole_and_the_predictive_that_of_the_classes_distinguished(k: int) -> None:
    """JPJ', whatever is observed in training, and GG' = CC'JPJ'CC' for the k most probable classes, as in training."""
    m, model = 6, linear(6)
    optimizer = KalmanOptimizer(
        model.parameters(), 0.5, top_k=k, covariance="full", update="posterior_mode", dtype="float64"
    )
    drive(optimizer, model, Categorical, labels(5, 1, m))
    x = torch.randn(3, model.in_features, dtype=torch.float64)
    found = optimizer.output_covariance(Categorical(model(x)))
    none, factor = optimizer.output_uncertainty(Categorical(model(x)), whole=False)
    _, same = optimizer.output_uncertainty(Categorical(model(x)))
    J = torch.func.jacrev(outputs_of(model, x))(flat(model))
    z = model(x).detach()
    C = contrasts_between(z.softmax(1), z.topk(k).indices)
    expected = J @ optimizer.filter["P0"] @ J.mT
    assert relative(found, expected) <= 1e-12
    assert none is None
    for G in (factor, same):
        assert G is not None
        assert relative(G @ G.mT, C @ C.mT @ expected @ C @ C.mT) <= 1e-12


def test_values_have_no_classes() -> None:
    states = []
    for likely in (0, 1):
        model = linear(4)
        drive(Filtune(model.parameters(), top_k=likely), model, Gaussian, values(6, 2, 4))
        states.append(flat(model))
    assert torch.equal(*states)


def rows_of_a_step(model: torch.nn.Module, m: int) -> int:
    """Rows of the Jacobian for one sample whose label is the most probable class."""
    optimizer = Filtune([p for p in model.parameters() if p.requires_grad]).attach(model)
    x = torch.ones(1, 5, dtype=torch.float64)
    label = model(x).argmax(1)
    optimizer.step(lambda: Categorical(model(x)).observe(label))
    assert optimizer._last is not None
    return optimizer._last.e.shape[1]


@pytest.mark.parametrize(("m", "whole"), [(3, 2), (10, 9), (30, 9)])
def test_by_default_one_class_is_told_apart_where_weights_are_frozen_and_nine_elsewhere(m: int, whole: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, m)).double()
    assert rows_of_a_step(model, m) == whole
    model[0].requires_grad_(False)
    assert rows_of_a_step(model, m) == 1


def test_without_a_model_all_classes_are_told_apart() -> None:
    model = linear(12)
    optimizer = Filtune(model.parameters())
    drive(optimizer, model, Categorical, labels(1, 1, 12))
    assert optimizer._last is not None
    assert optimizer._last.e.shape[1] == 11


def test_two_thousand_classes_run() -> None:
    """What is kept and what is worked out has no more than one row or column for a class."""
    m, model = 2000, torch.nn.Linear(8, 2000)
    torch.nn.init.zeros_(model.weight)
    optimizer = Filtune(model.parameters(), top_k=1, rank=2, buffer_size=2)
    x, y = torch.randn(4, 8), torch.tensor([3, 1999, 3, 3])
    for i in range(4):
        before = torch.nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        optimizer.step(lambda i=i: Categorical(model(x[i : i + 1])).observe(y[i : i + 1]))
        assert torch.nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]) < before
    predicted = optimizer.predictive()
    assert predicted is not None
    assert predicted.shape == (1, m)
    assert float(predicted.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("labels", "times"), [([0, 0], 1), ([0, 2], 2)])
def test_the_directions_are_worked_out_again_only_where_a_label_is_distinguished(
    labels: list[int], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all labels are among the most probable classes, the directions with and without them are the same."""
    z, y = torch.tensor([[3.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 1.0]]), torch.tensor(labels)
    calls, contrasts = [], Categorical.contrasts
    monkeypatch.setattr(Categorical, "contrasts", lambda *args: calls.append(args) or contrasts(*args))
    innovation = selected(z, y, 1)
    assert len(calls) == times
    expected = contrasts(Categorical(z), 1)
    assert innovation.foreseen is not None
    assert expected is not None
    assert torch.allclose(innovation.foreseen @ innovation.cotangents, expected, atol=8 * 4 * 2**-23)
