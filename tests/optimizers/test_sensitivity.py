"""The prior by what the first outputs are sensitive to."""

from __future__ import annotations

import copy

import pytest
import torch
from filtune.optimizers import EKF, Categorical, Filtune, Gaussian
from filtune.optimizers.kalman.prior import PROBE_SEED, sensitivity_factor
from filtune.optimizers.likelihoods.base import Observation
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jacrev

from tests.optimizers.models import (
    COVARIANCES,
    covariance_of,
    drive,
    labels,
    linear,
    mlp,
    relative,
    rounding,
    values,
)
from tests.optimizers.reference import flat, outputs_of


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_first_batch_sets_the_prior_of_every_tensor(covariance: str) -> None:
    """Noise so large that the update leaves it as it is."""
    model = mlp(3)
    options = {"noise": "identity", "r0": 1e30, "p0": 0.3, "p0_init": "sensitivity", "dtype": "float64"}
    optimizer = EKF(model.parameters(), **covariance_of(covariance), **options)
    assert torch.equal(torch.cat([v.flatten() for v in optimizer.variance()]), torch.full_like(flat(model), 0.3))
    x, y = values(1, 4, 3)[0]
    H = jacrev(outputs_of(model, x))(flat(model)).flatten(0, 1)
    drive(optimizer, model, Gaussian, [(x, y)])
    sizes = [param.numel() for param in model.parameters()]
    for part, variance in zip(H.split(sizes, 1), optimizer.variance(), strict=True):
        expected = 0.3 * min(0.1 * float(part.square().mean()) ** -0.25, 10)
        assert relative(variance, torch.full_like(variance, expected)) <= rounding(1000)


def test_a_linear_model_is_ridge_regression_under_that_prior() -> None:
    model, stream, r = linear(1), values(20, 2, 1), 0.3
    theta = flat(model)
    optimizer = EKF(model.parameters(), "full", noise="identity", r0=r, p0_init="sensitivity", dtype="float64")
    X = torch.cat([jacrev(outputs_of(model, x))(theta)[:, 0] for x, _ in stream])
    y = torch.cat([y for _, y in stream])[:, 0]
    drive(optimizer, model, Gaussian, stream)
    sizes = [param.numel() for param in model.parameters()]
    squares = torch.stack([part.square().mean() for part in X[:2].split(sizes, 1)])
    prior = 0.1 * (0.1 * squares.pow(-0.25)).clamp_max(10).repeat_interleave(torch.tensor(sizes))
    precision = torch.diag(1 / prior) + X.T @ X / r
    mean = torch.linalg.solve(precision, theta / prior + X.T @ y / r)
    assert relative(flat(model), mean) <= rounding(40 * 40, condition=float(torch.linalg.cond(precision)) * 100)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), unit=st.floats(1e-6, 1e6))
def test_a_priors_width_falls_with_the_sensitivity(seed: int, unit: float) -> None:
    """As the root of its inverse, up to where it would be too wide; half of p0 where there is none."""
    squares = unit * torch.rand(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    squares[3] = 0
    params = [torch.zeros(2), torch.zeros(1), torch.zeros(1), torch.zeros(5)]
    factor = sensitivity_factor(squares, [{"params": params, "p0_init": "sensitivity"}])
    for part, own in zip(factor.split([2, 1, 1, 5]), squares.split([2, 1, 1, 5]), strict=True):
        rms = float(own.mean().sqrt())
        expected = min((rms / 0.01) ** -0.5, 10) if rms else 0.5
        assert relative(part, torch.full_like(part, expected)) <= 1e-13


def test_a_group_may_have_a_constant_prior() -> None:
    model = mlp(3)
    first, *rest = model.parameters()
    groups = [{"params": [first], "p0": 0.7, "p0_init": "constant"}, {"params": rest}]
    optimizer = Filtune(groups, dtype="float64")
    before = [v.clone() for v in optimizer.variance()]
    x, y = labels(1, 1, 3)[0]
    drive(optimizer, model, Categorical, [(x, y)])
    assert float(before[0].max()) == pytest.approx(0.7)
    assert float(optimizer.variance()[0].max()) <= 0.7
    assert float(optimizer.variance()[-1].max()) != pytest.approx(0.1)


def test_a_first_batch_that_is_not_finite_does_not_set_it() -> None:
    model = mlp(3)
    optimizer = Filtune(model.parameters(), dtype="float64")
    other = copy.deepcopy(model)
    reference = Filtune(other.parameters(), dtype="float64")
    (x, y), *stream = labels(4, 1, 3)
    drive(optimizer, model, Categorical, [(x * torch.nan, y)])
    assert not optimizer.filter["prior_initialized"]
    assert torch.equal(torch.cat([v.flatten() for v in optimizer.variance()]), torch.full_like(flat(model), 0.1))
    drive(optimizer, model, Categorical, stream)
    drive(reference, other, Categorical, stream)
    assert torch.equal(flat(model), flat(other))
    assert int(optimizer.filter["nonfinite_steps"]) == 1


def test_the_prior_does_not_depend_on_a_head_that_starts_at_zero() -> None:
    """It is that of the same network with the probe as its head, and the head itself is zero again for the step."""
    model = mlp(3)
    head = model[-1]
    probe = torch.rand(head.weight.shape, generator=torch.Generator().manual_seed(PROBE_SEED))
    with torch.no_grad():
        head.bias.zero_()
        head.weight.copy_((2 * probe - 1) / head.in_features**0.5)
    options = {"noise": "identity", "r0": 1e30, "p0": 0.3, "p0_init": "sensitivity", "dtype": "float64"}
    random = EKF(model.parameters(), "diagonal", **options).attach(model)
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        zeroed[-1].weight.zero_()
    zero = EKF(zeroed.parameters(), "diagonal", **options).attach(zeroed)
    stream, state = values(1, 4, 3), torch.get_rng_state()
    drive(random, model, Gaussian, stream)
    drive(zero, zeroed, Gaussian, stream)
    assert torch.equal(state, torch.get_rng_state())
    assert [torch.equal(a, b) for a, b in zip(zero.variance(), random.variance(), strict=True)] == [True] * 4
    assert len({float(v.mean()) for v in zero.variance()}) == 4
    assert zeroed[-1].weight.abs().max() < 1e-20  # noise so large that nothing is learnt


def test_the_probe_is_taken_back_when_the_closure_fails() -> None:
    model = mlp(3)
    torch.nn.init.zeros_(model[-1].weight)
    optimizer = Filtune(model.parameters()).attach(model)
    ((x, y),) = labels(1, 1, 3)

    def fail() -> Observation:
        if model[-1].weight.any():
            raise RuntimeError("no sample")
        return Categorical(model(x)).observe(y)

    with pytest.raises(RuntimeError, match="no sample"):
        optimizer.step(fail)
    assert not model[-1].weight.any()


def test_the_probe_leaves_no_copy_to_autocast() -> None:
    """It keeps copies of parameters for as long as its context lasts, and a step may be within it."""
    model = mlp(3).float()
    torch.nn.init.zeros_(model[-1].weight)
    torch.nn.init.zeros_(model[-1].bias)
    optimizer = Filtune(model.parameters()).attach(model)
    ((x, y),) = labels(1, 1, 3)
    with torch.autocast("cpu", torch.bfloat16):
        seen = optimizer.step(lambda: Categorical(model(x.float())).observe(y))
    assert not seen.outputs.any()


class Adapted(torch.nn.Module):
    """A frozen layer with LoRA, and a head that is frozen, or has LoRA as well."""

    def __init__(self, adapted_head: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = (torch.nn.Linear(*shape).requires_grad_(False) for shape in ((5, 8), (8, 3)))
        shapes = [(2, 5), (8, 2), (2, 8), (3, 2)][: 4 if adapted_head else 2]
        self.lora = torch.nn.ParameterList([torch.randn(shape) * (i % 2 == 0) for i, shape in enumerate(shapes)])

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, 3)."""
        a, b, *more = self.lora
        z = torch.tanh(self.first(x) + x @ a.T @ b.T)
        return self.head(z) + (z @ more[0].T @ more[1].T if more else 0)


@pytest.mark.parametrize("adapted_head", [False, True])
def test_only_what_an_output_layer_hides_has_the_priors_of_the_probe(adapted_head: bool) -> None:
    """A lora_B that starts at zero is no output layer: the priors of what moves the outputs already are their own."""
    model = Adapted(adapted_head).double()
    options = {"noise": "identity", "r0": 1e30, "p0": 0.3, "p0_init": "sensitivity", "dtype": "float64"}
    optimizer = EKF(model.lora.parameters(), "diagonal", **options).attach(model)
    x, y = values(1, 4, 3)[0]
    J = jacrev(lambda b: torch.func.functional_call(model, {"lora.1": b}, x))(model.lora[1].detach())
    drive(optimizer, model, Gaussian, [(x, y)])
    first, second, *_ = optimizer.variance()
    expected = 0.3 * min(0.1 * float(J.detach().square().mean()) ** -0.25, 10)
    assert relative(second, torch.full_like(second, expected)) <= rounding(1000)
    assert relative(first, torch.full_like(first, 0.15)) <= rounding(10)


def test_derivatives_whose_squares_overflow_do_not_set_it() -> None:
    model = linear(3).float()
    optimizer = Filtune(model.parameters())
    ((x, y), *_) = labels(1, 1, 3)
    drive(optimizer, model, Categorical, [(1e25 * x.float(), y)])
    assert not optimizer.filter["prior_initialized"]
    assert all(bool((v > 0).all()) for v in optimizer.variance())


@pytest.mark.parametrize("zero_head", [False, True])
def test_a_matrix_that_closes_an_adapter_has_a_wider_prior(zero_head: bool) -> None:
    """Three times what its sensitivity gives, and nothing else is wider: no lora_A, and no head that starts at zero."""
    found = {}
    for scale in (1.0, 3.0):
        model = Adapted(adapted_head=False).double()
        model.head.requires_grad_(True)
        if zero_head:
            torch.nn.init.zeros_(model.head.weight)
        params = [*model.lora.parameters(), *model.head.parameters()]
        optimizer = Filtune(params, adapter_scale=scale, dtype="float64").attach(model)
        drive(optimizer, model, Categorical, labels(1, 1, 3))
        prior = 1 / optimizer.filter["precision"]  # what the sample has added is in the rows of low rank
        found[scale] = [part.clone() for part in prior.split([param.numel() for param in params])]
    ratios = [wide / narrow for wide, narrow in zip(found[3.0], found[1.0], strict=True)]
    for ratio, expected in zip(ratios, (1, 3, 1, 1), strict=True):
        assert relative(ratio, torch.full_like(ratio, expected)) <= 1e-13
    assert float(found[3.0][0][0]) == pytest.approx(0.05)


def test_a_group_with_a_constant_prior_is_not_widened() -> None:
    model = Adapted(adapted_head=False).double()
    groups = [{"params": [model.lora[0]]}, {"params": [model.lora[1]], "p0": 0.7, "p0_init": "constant"}]
    optimizer = Filtune(groups, dtype="float64").attach(model)
    drive(optimizer, model, Categorical, labels(1, 1, 3))
    variance = 1 / optimizer.filter["precision"][model.lora[0].numel() :]
    assert relative(variance, torch.full_like(variance, 0.7)) <= 1e-13
