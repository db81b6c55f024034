"""SAM is its published formulas around torch's own rules; the parameters it moves from are restored to the bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from filtune.optimizers import SAM, Categorical, Gaussian, Observation
from torch import Tensor, nn

from tests.optimizers.models import drive, labels, linear, mlp, relative, rounding, values
from tests.optimizers.reference import flat

STEPS, RHO = 5, 0.1
BASES: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "adamw": {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1},
}
TORCHS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}

# The two loops differ in the order of sums within |g|, over 66 parameters, and in a product or two a coordinate; the
# passes are the same. Through a step the differences are magnified by the curvature, below 1 + lr * 10 with momentum's
# factor of 10, and by AdamW's division by sqrt(v) + eps >= 1e-3.
CLOSE = rounding(STEPS * (66 + 10), condition=1000)


def grouped(model: nn.Module) -> list[dict[str, Any]]:
    """Two layers as two groups, the second with a learning rate of its own."""
    return [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.05}]


@pytest.mark.parametrize(("kind", "B"), [("labels", 3), ("values", 1)])
@pytest.mark.parametrize("base", BASES)
def test_is_the_published_rule(base: str, kind: str, B: int) -> None:
    """theta + rho g / |g|, the gradient there, and the base rule's step at theta, on a copy of the model."""
    model, other, likelihood = mlp(3), mlp(3), Categorical if kind == "labels" else Gaussian
    optimizer = SAM(grouped(model), base=base, rho=RHO, **BASES[base])
    torchs = TORCHS[base](grouped(other), **BASES[base])
    for x, y in labels(STEPS, B, 3) if kind == "labels" else values(STEPS, B, 3):
        calls = []

        def closure(x: Tensor = x, y: Tensor = y, calls: list[int] = calls) -> Observation:
            calls.append(1)
            return likelihood(model(x)).observe(y)

        before, seen = model(x).detach(), optimizer.step(closure)
        assert len(calls) == 2
        assert torch.equal(seen.outputs, before)

        params, neighbour = list(other.parameters()), copy.deepcopy(other)
        loss = likelihood(other(x)).nll(y)
        g = torch.autograd.grad(loss, params)
        norm = torch.cat([part.flatten() for part in g]).square().sum().sqrt()
        with torch.no_grad():
            for p, part in zip(neighbour.parameters(), g, strict=True):
                p += RHO * part / norm
        worst = likelihood(neighbour(x)).nll(y)
        for p, part in zip(params, torch.autograd.grad(worst, list(neighbour.parameters())), strict=True):
            p.grad = part
        torchs.step()
        assert relative(flat(model), flat(other)) <= CLOSE
        assert float(optimizer.stats["grad_norm"]) == pytest.approx(float(norm), rel=CLOSE)
        # a difference of two losses: what is close is each of them
        assert float(optimizer.stats["sharpness"]) == pytest.approx(float(worst - loss), abs=CLOSE * float(worst))


def test_closed_form_on_a_quadratic() -> None:
    """With L = |Ax - y|^2 / 2 the Hessian H is known: SAM's gradient is g + rho H g / |g|."""
    model = linear(2)
    (x, y) = values(1, 4, 2)[0]
    W, b = model.weight.detach().clone(), model.bias.detach().clone()
    X = torch.cat([x, torch.ones(4, 1).double()], 1)  # bias as a further feature
    theta = torch.cat([W, b.unsqueeze(1)], 1)
    H, g = X.mT @ X / 4, (theta @ X.mT - y.mT) @ X / 4
    expected = theta - 0.1 * (g + 0.3 * (g @ H) / g.norm())
    drive(SAM(model.parameters(), rho=0.3, lr=0.1, momentum=0.0), model, Gaussian, [(x, y)])
    found = torch.cat([model.weight, model.bias.unsqueeze(1)], 1)
    assert relative(found, expected) <= rounding(100, condition=10)  # sums of 4, 6 and 12 terms


def test_radius_zero_is_the_base_rule_to_the_bit() -> None:
    model, other = mlp(3), mlp(3)
    optimizer, torchs = SAM(model.parameters(), rho=0.0), torch.optim.SGD(other.parameters(), 1e-2, 0.9)
    for x, y in labels(STEPS, 2, 3):
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        torchs.zero_grad()
        Categorical(other(x)).nll(y).backward()
        torchs.step()
    assert torch.equal(flat(model), flat(other))


@pytest.mark.parametrize("base", BASES)
def test_without_a_learning_rate_theta_stays_to_the_bit(base: str) -> None:
    model = mlp(3).float()
    start, stream = flat(model), [(1e3 * x.float(), y) for x, y in labels(STEPS, 2, 3)]
    drive(SAM(model.parameters(), base=base, lr=0.0, rho=7.0), model, Categorical, stream)
    assert torch.equal(flat(model), start)


def test_theta_is_restored_where_the_second_pass_fails() -> None:
    model = mlp(3)
    optimizer, start, passes = SAM(model.parameters(), rho=0.5), flat(model), iter([0, 1])

    def closure() -> Observation:
        if next(passes):
            raise RuntimeError("out of memory")
        return Categorical(model(torch.ones(1, 5).double())).observe(torch.tensor([0]))

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(closure)
    assert torch.equal(flat(model), start)


def test_a_gradient_of_zero_moves_nothing() -> None:
    model = linear(2)
    x = torch.ones(1, 5).double()
    start, optimizer = flat(model), SAM(model.parameters())
    drive(optimizer, model, Gaussian, [(x, model(x).detach())])
    assert torch.equal(flat(model), start)
    assert float(optimizer.stats["sharpness"]) == int(optimizer.stats["nonfinite_steps"]) == 0


@pytest.mark.parametrize("base", BASES)
def test_a_gradient_that_is_not_finite_is_counted_and_spoils_nothing(base: str) -> None:
    model = mlp(3)
    optimizer = SAM(model.parameters(), base=base)
    stream = labels(3, 2, 3)
    drive(optimizer, model, Categorical, [stream[0], (stream[1][0] * float("inf"), stream[1][1]), stream[2]])
    assert flat(model).isfinite().all()
    assert int(optimizer.stats["nonfinite_steps"]) == 1
    assert "1 non-finite" in (optimizer.check_divergence() or "")


def test_nor_does_one_of_the_second_pass_alone() -> None:
    model = mlp(3).float()
    optimizer = SAM(model.parameters(), rho=1e30)  # its squares overflow
    drive(optimizer, model, Gaussian, [(x.float(), y.float()) for x, y in values(2, 2, 3)])
    assert flat(model).isfinite().all()
    assert int(optimizer.stats["nonfinite_steps"]) == 2


def test_the_second_pass_sees_the_neighbour_under_autocast() -> None:
    """Autocast keeps its copies of the parameters for as long as it is on; they would be those of the first pass."""
    outside, inside, (x, y) = mlp(3).float(), mlp(3).float(), labels(1, 2, 3)[0]

    def observe(model: nn.Module) -> Observation:
        with torch.autocast("cpu", torch.bfloat16):
            return Categorical(model(x.float())).observe(y)

    optimizers = [SAM(model.parameters(), lr=0.1, rho=5.0) for model in (outside, inside)]
    for _ in range(2):
        optimizers[0].step(lambda: observe(outside))
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            optimizers[1].step(lambda: observe(inside))
    assert float(optimizers[0].stats["sharpness"]) != 0
    assert torch.equal(flat(inside), flat(outside))
