"""Likelihoods are what they say: against autograd, against torch's losses, against their own samples."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import Categorical, Gaussian
from filtune.optimizers.likelihoods.base import Likelihood, Observation
from filtune.optimizers.likelihoods.categorical import simplex_basis
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jacrev, vmap

from tests.optimizers.models import rounding

CPU = torch.device("cpu")
MANY = st.integers(2, 12)
SEEDS = st.integers(0, 999)


def logits(B: int, m: int, seed: int, scale: float = 2.0) -> Tensor:
    """(B, m), float64."""
    return scale * torch.randn(B, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(B: int, m: int, seed: int) -> Tensor:
    """(B,)."""
    return torch.randint(m, (B,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("m", [2, 3, 10, 101, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_simplex_basis_is_orthonormal_and_orthogonal_to_ones(m: int, dtype: torch.dtype) -> None:
    U = simplex_basis(m, dtype, CPU)
    assert U.shape == (m, m - 1)
    assert U.dtype == dtype
    U, tolerance = U.double(), rounding(m, dtype=dtype)
    assert (U.T @ U - torch.eye(m - 1)).abs().max() <= tolerance
    assert U.sum(0).abs().max() <= tolerance * m**0.5
    assert (U @ U.T - (torch.eye(m).double() - 1 / m)).abs().max() <= tolerance


@given(B=st.integers(1, 4), m=MANY, seed=SEEDS)
def test_probabilities_are_observed_in_the_simplex(B: int, m: int, seed: int) -> None:
    z, y = logits(B, m, seed), classes(B, m, seed)
    e, cotangents = Categorical(z).observe(y).innovation()[:2]
    U, one_hot = simplex_basis(m, torch.float64, CPU), torch.nn.functional.one_hot(y, m).double()
    assert e.shape == (B, m - 1)
    assert cotangents.shape == (B, m - 1, m)
    expected = vmap(jacrev(lambda row: U.T @ row.softmax(-1)))(z)
    assert (e @ U.T - (one_hot - z.softmax(-1))).abs().max() <= rounding(4 * m)
    assert (cotangents - expected).abs().max() <= rounding(4 * m)


@given(B=st.integers(1, 4), m=MANY, seed=SEEDS, scale=st.sampled_from([None, 1.0, 4.0]))
def test_logits_are_observed_as_they_are(B: int, m: int, seed: int, scale: float | None) -> None:
    z, y = logits(B, m, seed), classes(B, m, seed)
    e, cotangents = Categorical(z, scale).observe(y).innovation("logits")[:2]
    one_hot = torch.nn.functional.one_hot(y, m).double()
    factor = scale or (2.0 if m == 2 else 1.0)
    if m == 2:
        expected, h = factor * (one_hot[:, 1:] - one_hot[:, :1]), z[:, 1:] - z[:, :1]
        rows = torch.tensor([[-1.0, 1.0]]).double()
    else:
        expected, h, rows = factor * one_hot, z, torch.eye(m, dtype=torch.float64)
    assert torch.equal(e, expected - h)
    assert torch.equal(cotangents, rows.expand(B, -1, -1))


@given(B=st.integers(1, 4), m=st.integers(1, 6), seed=SEEDS)
def test_values_are_observed_as_they_are(B: int, m: int, seed: int) -> None:
    h, y = logits(B, m, seed), logits(B, m, seed + 1)
    for observation in ("probabilities", "logits"):
        e, cotangents = Gaussian(h).observe(y).innovation(observation)[:2]
        assert torch.equal(e, y - h)
        assert torch.equal(cotangents, torch.eye(m).double().expand(B, -1, -1))


@given(B=st.integers(1, 4), m=MANY, seed=SEEDS)
def test_nll_is_torchs_own_and_its_gradient_is_minus_the_residual(B: int, m: int, seed: int) -> None:
    z, y = logits(B, m, seed).requires_grad_(), classes(B, m, seed)
    observation = Categorical(z).observe(y)
    nll = observation.nll()
    assert torch.equal(nll, torch.nn.functional.cross_entropy(z, y))
    (gradient,) = torch.autograd.grad(nll, z)
    residual = observation.innovation().residual @ simplex_basis(m, torch.float64, CPU).T
    assert (gradient + residual / B).abs().max() <= rounding(8 * m)
    h, values = logits(B, m, seed).requires_grad_(), logits(B, m, seed + 1)
    nll = Gaussian(h).observe(values).nll()
    expected = 0.5 * m * torch.nn.functional.mse_loss(h, values)
    assert (nll - expected).abs() <= rounding(8 * m * B) * nll
    (gradient,) = torch.autograd.grad(nll, h)
    assert (gradient + (values - h) / B).abs().max() <= rounding(8 * m, condition=20)


@given(B=st.integers(1, 3), m=MANY, seed=SEEDS)
def test_covariance_is_that_of_the_observation(B: int, m: int, seed: int) -> None:
    """Sum over all labels, weighted by their probability, of the residual's square."""
    likelihood = Categorical(logits(B, m, seed))
    p, expected = likelihood.mean(), torch.zeros(B, m - 1, m - 1, dtype=torch.float64)
    for label in range(m):
        e = likelihood.innovation(torch.full((B,), label)).residual
        expected += p[:, label, None, None] * e.unsqueeze(-1) * e.unsqueeze(-2)
    assert (likelihood.covariance() - expected).abs().max() <= rounding(8 * m)
    assert torch.equal(Gaussian(logits(B, m, seed)).covariance(), torch.eye(m).double().expand(B, -1, -1))


DRAWS = 20_000


def test_samples_have_the_mean_and_covariance() -> None:
    """Every figure is a mean of 20,000 draws: five of its standard deviations."""
    generator = torch.Generator().manual_seed(1)
    z = logits(1, 4, 3)
    p = z.softmax(-1)[0]
    drawn = Categorical(z.expand(DRAWS, -1)).sample(generator)
    assert drawn.shape == (DRAWS,)
    share = torch.nn.functional.one_hot(drawn, 4).double().mean(0)
    assert bool(((share - p).abs() <= 5 * (p * (1 - p) / DRAWS).sqrt()).all())
    values = Gaussian(z.expand(DRAWS, -1)).sample(generator) - z
    assert values.shape == (DRAWS, 4)
    assert float(values.mean(0).abs().max()) <= 5 / DRAWS**0.5
    assert float((values.T @ values / DRAWS - torch.eye(4)).abs().max()) <= 5 * (2 / DRAWS) ** 0.5


@pytest.mark.parametrize("likelihood", [Categorical, Gaussian])
def test_samples_follow_the_generator(likelihood: type[Likelihood]) -> None:
    first, second = (likelihood(logits(8, 5, 0)).sample(torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("observation", ["probabilities", "logits"])
def test_half_precision_outputs_are_computed_in_float32(half: torch.dtype, observation: str) -> None:
    z, y = logits(2, 3, 0).to(half).requires_grad_(), classes(2, 3, 0)
    wide = z.detach().float().requires_grad_()
    for likelihood, target in [(Categorical, y), (Gaussian, logits(2, 3, 1).float())]:
        narrow, full = likelihood(z).observe(target), likelihood(wide).observe(target)
        for a, b in zip(narrow.innovation(observation)[:3], full.innovation(observation)[:3], strict=True):
            assert a.dtype == torch.float32
            assert torch.equal(a, b)
        assert narrow.nll().dtype == torch.float32
        assert torch.equal(narrow.nll(), full.nll())
        assert torch.equal(narrow.likelihood.mean(), full.likelihood.mean())
        assert narrow.likelihood.covariance().dtype == torch.float32


def test_extreme_logits_stay_finite() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0], [-80.0, 80.0, 80.0]], requires_grad=True)
    observation = Categorical(z).observe(torch.tensor([1, 0, 2]))
    for tensor in (*observation.innovation()[:3], observation.likelihood.covariance(), observation.nll()):
        assert bool(tensor.isfinite().all())


def test_what_the_filter_sees_has_no_graph_but_the_outputs_do() -> None:
    for likelihood, target in [(Categorical, classes(2, 3, 0)), (Gaussian, logits(2, 3, 1))]:
        z = logits(2, 3, 0).requires_grad_()
        observation = likelihood(z).observe(target)
        assert isinstance(observation, Observation)
        assert observation.outputs is z
        for tensor in (*observation.innovation()[:3], likelihood(z).covariance(), likelihood(z).mean()):
            assert not tensor.requires_grad
        assert observation.nll().requires_grad


def test_a_single_value_may_come_without_its_column() -> None:
    h = logits(3, 1, 0)
    y = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(Gaussian(h).observe(y).nll(), Gaussian(h).observe(y[:, None]).nll())
    assert torch.equal(Gaussian(h).observe(y).innovation().residual, y[:, None].double() - h)


@pytest.mark.parametrize("likelihood", [Categorical, Gaussian])
@pytest.mark.parametrize("shape", [(3,), (1, 2, 3), ()], ids=str)
def test_outputs_must_be_a_matrix(likelihood: type[Likelihood], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"outputs of shape \(batch, outputs\), got") as error:
        likelihood(torch.zeros(shape))
    assert "\n" not in str(error.value)


def test_one_logit_is_no_categorical() -> None:
    with pytest.raises(ValueError, match="at least two logits; use Gaussian"):
        Categorical(torch.zeros(1, 1))


def test_an_unknown_observation_is_named() -> None:
    with pytest.raises(ValueError, match=r"observation must be one of .*got 'odds'"):
        Categorical(torch.zeros(1, 3)).innovation(torch.tensor([0]), "odds")
