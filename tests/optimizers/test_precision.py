"""Half-precision models with the filter in float32, float32 models with it in float64: close by derived bounds."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from filtune.optimizers import Categorical, Gaussian, LoKO
from filtune.optimizers.kalman.state import FILTER
from torch import Tensor, nn

from tests.optimizers.adapted import adapted, bert, shake, trained
from tests.optimizers.models import FEATURES, drive, labels, relative, rounding
from tests.optimizers.reference import flat

U = torch.finfo(torch.bfloat16).eps / 2
"""Unit roundoff of bfloat16, 2^-8."""

MODES = ["bfloat16", "autocast"]


def prepared(model: nn.Module, mode: str) -> nn.Module:
    """A copy of a float64 model to be run in that mode."""
    return copy.deepcopy(model).to(torch.bfloat16 if mode == "bfloat16" else torch.float32)


def running(mode: str) -> torch.autocast | nullcontext:
    """The context of the forward pass."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if mode == "autocast" else nullcontext()


def half(x: Tensor) -> Tensor:
    """Rounded to bfloat16, in float64."""
    return x.to(torch.bfloat16).double()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attached", [False, True])
def test_one_step_of_a_linear_model_is_within_the_rounding_of_bfloat16(mode: str, attached: bool) -> None:
    """p <- p - p^2 x^2/S, theta <- theta + p x e/S, to first order in U = 2^-8, with room for twice that.

    The output is a sum of FEATURES products and a bias, rounded at each: |d out| <= gamma (|W||x| + |b|) = delta.
    Then |de| = delta; S = HPH + beta r0 + (1 - beta)(e^2 + HPH) gives |dS| <= 2 U 1.05 HPH + .1 |e| delta, as x may be
    rounded; p x e/S changes relatively by U + delta/|e| + |dS|/S; adding it to bfloat16 weights rounds twice more.
    """
    torch.manual_seed(3)
    exact = nn.Linear(FEATURES, 1).double()
    with torch.no_grad():
        for p in exact.parameters():
            p.copy_(half(p))
    model, x, y, p0, beta = prepared(exact, mode), half(torch.randn(1, FEATURES)), torch.tensor([[3.0]]), 0.5, 0.95
    theta = flat(exact)
    delta = rounding(FEATURES + 4, dtype=torch.bfloat16) * float(
        (x.abs() @ exact.weight.abs().T + exact.bias.abs()).detach()
    )
    e = abs(float((y - exact(x)).detach()))
    HPH = p0 * (float(x.square().sum()) + 1)
    S = HPH + beta + (1 - beta) * (e**2 + HPH)
    dS = (2 * U * 1.05 * HPH + 0.1 * e * delta) / S

    wide = LoKO(exact.parameters(), p0=p0, p0_init="constant", beta=beta, dtype="float64")
    optimizer = LoKO(model.parameters(), p0=p0, p0_init="constant", beta=beta)
    if attached:
        optimizer.attach(model)
    drive(wide, exact, Gaussian, [(x, y.double())])
    with running(mode):
        drive(optimizer, model, Gaussian, [(x.to(model.weight.dtype), y)])
    moved = (flat(exact) - theta).abs()
    difference = (flat(model) - flat(exact)).abs()
    assert bool((difference <= 2 * (moved * (2 * U + e**-1 * delta + dS) + U * (theta.abs() + moved))).all())
    p, p_exact = (torch.cat([v.flatten() for v in it.variance()]) for it in (optimizer, wide))
    assert bool(((p - p_exact).abs() <= 2 * (p0 - p_exact) * (2 * U + dS) + rounding(10, dtype=torch.float32)).all())
    # the bound means something: the step itself is far outside it
    assert float(moved.max()) > 10 * float(difference.max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("likelihood", [Categorical, Gaussian])
@pytest.mark.parametrize("attached", [False, True])
def test_half_precision_streams_stay_finite_with_the_state_in_float32(
    mode: str, likelihood: type, attached: bool
) -> None:
    torch.manual_seed(0)
    model = prepared(nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 3)), mode)
    optimizer = LoKO(model.parameters())
    if attached:
        optimizer.attach(model)
    stream = [(x.to(model[0].weight.dtype), y) for x, y in labels(30, 2, 3)]
    if likelihood is Gaussian:
        stream = [(x, nn.functional.one_hot(y, 3).float()) for x, y in stream]
    before = flat(model)
    with running(mode):
        drive(optimizer, model, likelihood, stream)
    assert optimizer.state[FILTER]["p"].dtype == optimizer.state[FILTER]["R"].dtype == torch.float32
    assert bool(flat(model).isfinite().all())
    assert not torch.equal(flat(model), before)
    assert float(optimizer.stats["variance_min"]) > 0
    assert int(optimizer.stats["nonfinite_steps"]) == int(optimizer.stats["clamped"]) == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_dense_head_is_factored_in_half_precision_too(mode: str) -> None:
    model = prepared(nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, 3)), mode)
    optimizer = LoKO(model.parameters()).attach(model)
    x, y = labels(1, 2, 3)[0]
    with running(mode):
        drive(optimizer, model, Categorical, [(x.to(model[0].weight.dtype), y)])
    assert list(optimizer._build._verified.values()) == [True, True]


def test_a_float32_model_may_have_its_filter_in_float64() -> None:
    """Both round theta to float32 at every step: 10 steps of about 100 operations on numbers of order one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, 3))
    exact = copy.deepcopy(model).double()
    optimizer = LoKO(model.parameters(), p0_init="constant", dtype="float64").attach(model)
    wide = LoKO(exact.parameters(), p0_init="constant", dtype="float64")
    stream = labels(10, 1, 3)
    drive(optimizer, model, Categorical, [(x.float(), y) for x, y in stream])
    drive(wide, exact, Categorical, [(x.float().double(), y) for x, y in stream])
    assert model[0].weight.dtype == torch.float32
    assert optimizer.state[FILTER]["p"].dtype == optimizer.state[FILTER]["R"].dtype == torch.float64
    assert relative(flat(model), flat(exact)) <= rounding(10 * 100, dtype=torch.float32)
    p, p_exact = (torch.cat([v.flatten() for v in it.variance()]) for it in (optimizer, wide))
    assert relative(p, p_exact) <= rounding(10 * 100, dtype=torch.float32)


@pytest.mark.parametrize("floating", [torch.float32, torch.float64], ids=str)
def test_eager_and_fused_attention_make_the_same_steps(floating: torch.dtype) -> None:
    """Chains of about 500 operations, magnified at most 100-fold by softmax and layer norm, over three steps."""
    results, starts = [], []
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        model = adapted(bert(attention), "lora", ["query", "value"]).to(floating)
        shake(model)
        optimizer = LoKO(trained(model), p0_init="constant", dtype=str(floating).removeprefix("torch.")).attach(model)
        generator = torch.Generator().manual_seed(0)
        starts.append(flat(model))
        stream = [(torch.randint(1, 50, (2, 6), generator=generator), torch.tensor([k, 2])) for k in range(3)]
        drive(optimizer, model, Categorical, stream)
        results.append(flat(model))
    assert torch.equal(*starts)
    assert relative(results[0], starts[0]) > 0.01
    assert relative(results[0] - starts[0], results[1] - starts[1]) <= rounding(3 * 500, 100, floating)
