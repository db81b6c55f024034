"""Likelihoods against autograd, torch's losses, their own samples, and brute-force optimisation in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from filtune.optimizers import Categorical, Filtune, Gaussian
from filtune.optimizers.likelihoods.base import Likelihood, Observation
from filtune.optimizers.likelihoods.bernoulli import Bernoulli
from filtune.optimizers.likelihoods.categorical import simplex_basis
from filtune.optimizers.likelihoods.gaussian import Scaling
from filtune.optimizers.likelihoods.poisson import LARGEST, Poisson
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jacrev, vmap

from tests.optimizers.models import linear, relative, rounding

CPU = torch.device("cpu")
Build = Callable[[Tensor], Likelihood]


def scaled(outputs: Tensor) -> Gaussian:
    """A Gaussian in units of its targets, with another noise variance for each output."""
    m = outputs.shape[1]
    scale, variance = (torch.linspace(low, high, m, dtype=torch.float64) for low, high in ((3, 5), (0.5, 2)))
    return Gaussian(outputs, Scaling(torch.full((m,), 40.0, dtype=torch.float64), scale, variance, variance))


def raised(outputs: Tensor) -> Poisson:
    """Counts whose rates are e^0.7 where outputs are zero."""
    return Poisson(outputs, torch.full((outputs.shape[1],), 0.7, dtype=torch.float64))


LIKELIHOODS: dict[str, Build] = {
    "categorical": Categorical, "gaussian": Gaussian, "scaled": scaled, "poisson": Poisson, "raised": raised,
    "bernoulli": Bernoulli,
}  # fmt: skip
each = pytest.mark.parametrize("build", LIKELIHOODS.values(), ids=LIKELIHOODS)


def drawn(build: Build, z: Tensor, seed: int) -> Tensor:
    """A target."""
    return build(z.detach()).sample(torch.Generator().manual_seed(seed))


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


@each
def test_the_natural_residual_is_the_gradient_and_its_precision_the_curvature(build: Build) -> None:
    """All links are canonical: the Hessian of the negative log-likelihood is F, whatever the target."""
    for seed in range(5):
        z = logits(1, 4, seed, scale=1.5)
        y = drawn(build, z, seed)
        found = build(z).natural(y)
        assert found.factor is not None

        def nll(row: Tensor, y: Tensor = y) -> Tensor:
            return build(row.unsqueeze(0)).nll(y)

        gradient, hessian = jacrev(nll)(z[0]), torch.func.hessian(nll)(z[0])
        J = found.cotangents[0]
        assert relative(J.T @ found.residual[0], -gradient) <= rounding(100, condition=100)
        assert relative(J.T @ found.factor[0] @ found.factor[0].T @ J, hessian) <= rounding(100, condition=100)


@each
def test_cotangents_and_covariance_are_those_of_the_mean(build: Build) -> None:
    """Cotangents by autograd; the covariance of 20,000 draws is within six of its standard deviations."""
    z = logits(1, 3, 3, scale=1.0)
    y = drawn(build, z, 0)
    found = build(z).innovation(y)

    def observed(row: Tensor) -> Tensor:
        mean = build(row.unsqueeze(0)).innovation(y)
        return (mean.observed - mean.residual)[0]

    steps = 1e-6 * torch.eye(3, dtype=torch.float64)
    expected = torch.stack([(observed(z[0] + h) - observed(z[0] - h)) / 2e-6 for h in steps], 1)
    assert float((found.cotangents[0] - expected).abs().max()) <= 1e-7  # of central differences
    many = z.expand(DRAWS, -1)
    e = build(many).innovation(drawn(build, many, 1)).residual
    (C,) = build(z).covariance()
    spread = ((C.diag()[:, None] * C.diag() * 4 + C.square()) / DRAWS).sqrt()  # counts have heavier tails
    assert bool(((e.T @ e / DRAWS - C).abs() <= 6 * spread).all())
    assert bool((e.mean(0).abs() <= 5 * (C.diag() / DRAWS).sqrt()).all())


@each
def test_the_curvature_bends_no_faster_than_said(build: Build) -> None:
    """|D^3 l[u, v, v]| <= M D^2 l[v, v], by automatic derivatives along u."""
    generator = torch.Generator().manual_seed(0)
    for seed in range(10):
        z = logits(1, 4, seed)
        y = drawn(build, z, seed)
        u, v = torch.randn(2, 4, generator=generator, dtype=torch.float64)

        def second(t: Tensor, z: Tensor = z, y: Tensor = y, u: Tensor = u, v: Tensor = v) -> Tensor:
            return v @ torch.func.hessian(lambda row: build(row.unsqueeze(0)).nll(y))(z[0] + t * u) @ v

        zero = torch.zeros((), dtype=torch.float64)
        bound = build(z).self_concordance_bound(u.unsqueeze(0)) * second(zero)
        assert float(jacrev(second)(zero).abs()) <= float(bound) * (1 + 1e-9) + 1e-12


@each
def test_filtune_finds_the_mode_of_the_posterior(build: Build) -> None:
    """Against a Newton iteration on all parameters of a linear model, in float64."""
    m = 3
    model = linear(m)
    optimizer = Filtune(model.parameters(), p0=0.5, p0_init="constant", dtype="float64")
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = drawn(build, model(x) + 1, 5)
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    prior = torch.cat([variance.flatten() for variance in optimizer.variance()])

    def phi(theta: Tensor) -> Tensor:
        weight, bias = theta[: m * 5].view(m, 5), theta[m * 5 :]
        return 2 * build(x @ weight.T + bias).nll(y) + 0.5 * ((theta - start).square() / prior).sum()

    theta = start.clone()
    step = torch.ones(())
    while step.norm() > 1e-10:
        step = torch.linalg.solve(torch.func.hessian(phi)(theta), jacrev(phi)(theta))
        theta = theta - step / (1 + step.norm())  # damped: counts overshoot
    optimizer.step(lambda: build(model(x)).observe(y))
    found = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((found - theta).abs().max()) <= 1e-7
    assert float((theta - start).norm()) > 1e-2


@each
def test_posterior_predictive_means_are_those_of_draws(build: Build) -> None:
    """To 0.02 (Categorical and Bernoulli: the probit approximation) or six standard deviations of 200,000 draws."""
    z, C = logits(1, 3, 1, scale=0.7), 0.3 * torch.eye(3, dtype=torch.float64)
    draws = z + 0.3**0.5 * torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = build(draws).mean()
    found = build(z).predictive(C.unsqueeze(0))[0]
    allowed = 6 * means.std(0) / len(draws) ** 0.5 + (0.02 if build in (Categorical, Bernoulli) else 1e-9)
    assert bool(((found - means.mean(0)).abs() <= allowed).all())
    nothing = build(z).predictive(torch.zeros(1, 3, 3, dtype=torch.float64))
    assert relative(nothing, build(z).mean()) <= rounding(100)


@each
def test_samples_follow_the_generator(build: Build) -> None:
    first, second = (build(logits(8, 5, 0)).sample(torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@each
def test_half_precision_outputs_are_computed_in_float32(half: torch.dtype, build: Build) -> None:
    z = logits(2, 3, 0).to(half).requires_grad_()
    wide = z.detach().float().requires_grad_()
    target = drawn(build, wide, 0)
    narrow, full = build(z).observe(target), build(wide).observe(target)
    for observation in ("probabilities", "logits"):
        for a, b in zip(narrow.innovation(observation)[:3], full.innovation(observation)[:3], strict=True):
            assert a.dtype == torch.float32
            assert torch.equal(a, b)
    assert narrow.nll().dtype == torch.float32
    assert torch.equal(narrow.nll(), full.nll())
    assert torch.equal(narrow.likelihood.mean(), full.likelihood.mean())
    assert narrow.likelihood.covariance().dtype == torch.float32


@each
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_outputs_stay_finite(build: Build, size: float) -> None:
    z = (size * torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.5, 1.0]])).requires_grad_()
    observation = build(z).observe(drawn(build, torch.zeros(3, 3), 0))
    found = observation.natural()
    assert found.factor is not None
    (gradient,) = torch.autograd.grad(observation.nll(), z)
    likelihood = observation.likelihood
    tensors = (*observation.innovation()[:3], *observation.innovation("logits")[:3], *found[:4], likelihood.mean())
    for tensor in (*tensors, likelihood.covariance(), observation.nll(), gradient, likelihood.sample()):
        assert bool(tensor.isfinite().all())


def test_rates_beyond_the_largest_go_on_along_the_tangent() -> None:
    z = torch.tensor([[LARGEST - 1.0], [LARGEST + 2.0]], dtype=torch.float64, requires_grad=True)
    rates = Poisson(z).mean()[:, 0]
    expected = [torch.tensor(LARGEST - 1).double().exp(), 3 * torch.tensor(LARGEST).double().exp()]
    assert relative(rates, torch.stack(expected)) <= rounding(10)
    (gradient,) = torch.autograd.grad(Poisson(z).nll(torch.zeros(2)), z)
    assert relative(2 * gradient, Poisson(z).innovation(torch.zeros(2)).cotangents[:, 0]) <= rounding(10)


@each
def test_what_the_filter_sees_has_no_graph_but_the_outputs_do(build: Build) -> None:
    z = logits(2, 3, 0).requires_grad_()
    observation = build(z).observe(drawn(build, z, 0))
    assert isinstance(observation, Observation)
    assert observation.outputs is z
    natural = observation.natural()
    for tensor in (*observation.innovation()[:3], *natural[:4], build(z).covariance(), build(z).mean()):
        assert isinstance(tensor, Tensor)
        assert not tensor.requires_grad
    assert observation.nll().requires_grad


def test_a_single_value_may_come_without_its_column() -> None:
    h = logits(3, 1, 0)
    y = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(Gaussian(h).observe(y).nll(), Gaussian(h).observe(y[:, None]).nll())
    assert torch.equal(Gaussian(h).observe(y).innovation().residual, y[:, None].double() - h)


@pytest.mark.parametrize("build", [Categorical, Gaussian, Poisson, Bernoulli])
@pytest.mark.parametrize("shape", [(3,), (1, 2, 3), ()], ids=str)
def test_outputs_must_be_a_matrix(build: Build, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"outputs of shape \(batch, outputs\), got") as error:
        build(torch.zeros(shape))
    assert "\n" not in str(error.value)


def test_one_logit_is_no_categorical() -> None:
    with pytest.raises(ValueError, match="at least two logits; use Gaussian"):
        Categorical(torch.zeros(1, 1))


@pytest.mark.parametrize("likelihood", [Categorical, Poisson, Bernoulli])
def test_an_unknown_observation_is_named(likelihood: type[Likelihood]) -> None:
    with pytest.raises(ValueError, match=r"observation must be one of .*got 'odds'"):
        likelihood(torch.zeros(1, 3)).innovation(torch.tensor([0]), "odds")
