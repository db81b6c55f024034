"""Sophia-G is its published algorithm, and its estimate that of the Fisher matrix' diagonal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical, Gaussian, Observation, Sophia
from torch import Tensor, nn

from tests.optimizers.models import drive, labels, linear, mlp, relative, rounding, values
from tests.optimizers.reference import flat

STEPS, EVERY = 7, 3
OPTIONS: dict[str, Any] = {"lr": 0.05, "betas": (0.8, 0.9), "gamma": 1.0, "eps": 1e-3, "weight_decay": 0.1}

# Both loops do the same passes on the same labels; they differ in a few products a coordinate and step. Their
# difference is magnified by the division by max(gamma h, eps) >= 1e-3.
CLOSE = rounding(STEPS * 20, condition=1000)


def grouped(model: nn.Module) -> list[dict[str, Any]]:
    """Two layers as two groups, the second with options of its own."""
    return [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.01, "gamma": 0.1}]


@pytest.mark.parametrize(("kind", "B"), [("labels", 3), ("values", 1)])
def test_is_the_published_algorithm(kind: str, B: int) -> None:
    """Algorithms 2 and 3, written out coordinate by coordinate on a copy of the model."""
    model, other, likelihood = mlp(3), mlp(3), Categorical if kind == "labels" else Gaussian
    optimizer = Sophia(grouped(model), hessian_every=EVERY, **OPTIONS)
    params = list(other.parameters())
    rates, gammas = [0.05, 0.05, 0.01, 0.01], [1.0, 1.0, 0.1, 0.1]
    m = [torch.zeros_like(p) for p in params]
    h = [torch.zeros_like(p) for p in params]
    shares = []
    for k, (x, y) in enumerate(labels(STEPS, B, 3) if kind == "labels" else values(STEPS, B, 3)):
        calls = []

        def closure(x: Tensor = x, y: Tensor = y, calls: list[int] = calls) -> Observation:
            calls.append(1)
            return likelihood(model(x)).observe(y)

        before = model(x).detach()
        torch.manual_seed(k)
        assert torch.equal(optimizer.step(closure).outputs, before)
        assert len(calls) == 1

        g = torch.autograd.grad(likelihood(other(x)).nll(y), params)
        m = [0.8 * a + 0.2 * b for a, b in zip(m, g, strict=True)]
        if k % EVERY == 0:
            torch.manual_seed(k)
            sampled = likelihood(other(x).detach()).sample()
            g_hat = torch.autograd.grad(likelihood(other(x)).nll(sampled), params)
            h = [0.9 * a + 0.1 * B * b * b for a, b in zip(h, g_hat, strict=True)]
        ratios = [a / (gamma * b).clamp_min(1e-3) for a, b, gamma in zip(m, h, gammas, strict=True)]
        with torch.no_grad():
            for p, ratio, lr in zip(params, ratios, rates, strict=True):
                p -= lr * 0.1 * p
                p -= lr * ratio.clamp(-1, 1)
        assert relative(flat(model), flat(other)) <= CLOSE
        share = torch.cat([ratio.flatten().abs() >= 1 for ratio in ratios]).double().mean()
        shares.append(float(share))
        assert float(optimizer.stats["clipped"]) == pytest.approx(float(share), rel=1e-6)  # a float32
        assert float(optimizer.stats["grad_norm"]) == pytest.approx(float(flat_norm(g)), rel=CLOSE)
        assert float(optimizer.stats["hessian_norm"]) == pytest.approx(float(flat_norm(h)), rel=CLOSE)
    assert min(shares) < 1  # or nothing but signs was compared
    assert max(shares) > 0


def flat_norm(parts: Any) -> Tensor:
    """Norm over all of them."""
    return torch.cat([part.flatten() for part in parts]).norm()


def test_the_estimate_is_the_diagonal_of_the_fisher_matrix() -> None:
    """On average over labels, by which B g-hat^2 has no bias: sum over samples of p_c (1 - p_c) x_i^2 / B."""
    model, (x, y), draws = linear(3), labels(1, 2, 3)[0], 1000
    p = model(x).softmax(-1).detach()
    exact = torch.einsum("bc,bi->ci", p * (1 - p), x.square()) / 2
    found = []
    for _ in range(draws):
        optimizer = Sophia(model.parameters(), lr=0.0, betas=(0.9, 0.0))
        optimizer.step(lambda: Categorical(model(x)).observe(y))
        found.append(optimizer.state[model.weight]["h"])
    error = torch.stack(found).std(0) / draws**0.5
    assert ((torch.stack(found).mean(0) - exact).abs() <= 5 * error).all()  # 15 entries: by chance once in 10^5


def test_no_coordinate_moves_further_than_the_learning_rate() -> None:
    model = mlp(3)
    for x, y in labels(STEPS, 2, 3):
        before = flat(model)
        drive(Sophia(model.parameters(), lr=0.01), model, Categorical, [(1e3 * x, y)])
        assert float((flat(model) - before).abs().max()) <= 0.01 * (1 + 1e-12)


def test_a_gradient_of_zero_moves_nothing() -> None:
    model = linear(2)
    x = torch.zeros(1, 5).double()
    start, optimizer = model.weight.detach().clone(), Sophia(model.parameters())
    drive(optimizer, model, Gaussian, [(x, model(x).detach())])
    assert torch.equal(model.weight, start)
    assert int(optimizer.stats["nonfinite_steps"]) == 0


@pytest.mark.parametrize(("likelihood", "bad"), [(Categorical, 0), (Gaussian, 1)])
def test_a_gradient_that_is_not_finite_is_counted_and_spoils_nothing(bad: int, likelihood: Any) -> None:
    """At a step with an estimate of h and at one without."""
    model = mlp(3)
    optimizer = Sophia(model.parameters(), hessian_every=2)
    stream = labels(4, 2, 3) if likelihood is Categorical else values(4, 2, 3)
    stream[bad] = (stream[bad][0] * float("inf"), stream[bad][1])
    drive(optimizer, model, likelihood, stream)
    assert flat(model).isfinite().all()
    assert int(optimizer.stats["nonfinite_steps"]) == 1
    assert "1 non-finite" in (optimizer.check_divergence() or "")
