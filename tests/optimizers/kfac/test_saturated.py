"""Natural gradients leave a saturated softmax, for which sampled labels say that it is certain and right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers import NGD, RENG, RING, Bernoulli, Categorical
from filtune.optimizers.kfac.damping import least_trace, reachable_scale
from torch import nn


def saturated(bias: float, outputs: int = 4) -> nn.Module:
    """6 -> 8 -> 4, certain of the last class."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs))
    with torch.no_grad():
        model[2].bias[-1] = bias
    return model


@pytest.mark.parametrize("B", [1, 8])
@pytest.mark.parametrize("bias", [12.0, 20.0, 60.0])
@pytest.mark.parametrize("rule", [RING, NGD])
def test_it_turns_within_forty_steps_and_never_further_than_it_was(rule: Any, bias: float, B: int) -> None:
    """From exactly zero sampled gradients (60) to those whose squares are as small as 1e-10 (12)."""
    model = saturated(bias)
    optimizer = rule(model.parameters()).attach(model)
    losses = []
    for _ in range(60):
        x = torch.randn(B, 6)
        y = (x[:, 0] > 0).long()
        losses.append(float(optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y)).nll().detach()))
    assert losses[0] == pytest.approx(bias, abs=3)
    assert min(losses[:40]) < 2
    assert max(losses) < 2 * bias + 10
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_reng_moves_at_the_rate_of_its_bound() -> None:
    """Its damping is absolute, so that nothing vanishes; the bound on the KL divergence limits it."""
    model = saturated(60.0)
    optimizer = RENG(model.parameters()).attach(model)
    before = model[2].bias.detach().clone()
    for _ in range(20):
        x = torch.randn(8, 6)
        optimizer.step(lambda x=x: Categorical(model(x)).observe((x[:, 0] > 0).long()))
    assert float(model[2].bias[-1] - before[-1]) < -0.1


def test_labels_that_occur_together_saturate_alike() -> None:
    model = saturated(60.0, 3)
    optimizer = RING(model.parameters()).attach(model)
    losses = []
    for _ in range(60):
        x = torch.randn(4, 6)
        y = torch.stack([x[:, 0] > 0, x[:, 1] > 0, torch.zeros(4, dtype=torch.bool)], 1).float()
        losses.append(float(optimizer.step(lambda x=x, y=y: Bernoulli(model(x)).observe(y)).nll().detach()))
    assert losses[0] > 50
    assert min(losses) < 0.5 * losses[0]  # the others are not saturated, and their factors bound the step


def test_the_least_trace_is_a_tiny_share_of_the_observed_second_moment() -> None:
    """|G|^2 <= tr(E[ee']) tr(E[xx']) for G = E[ex'], by Cauchy and Schwarz."""
    e, x = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 5, dtype=torch.float64)
    G = (e.T @ x / 50).unsqueeze(0)
    a_trace, g_trace = x.square().sum() / 50, e.square().sum() / 50
    found = float(least_trace(G, a_trace.view(1)))
    assert 0 < found <= torch.finfo(torch.float64).eps * float(g_trace)
    assert float(least_trace(torch.zeros(1, 3, 5), torch.zeros(1))) == 0


def test_no_step_promises_more_than_the_loss() -> None:
    assert float(reachable_scale(torch.tensor(4.0), torch.tensor(1.0))) == 0.25
    assert float(reachable_scale(torch.tensor(0.5), torch.tensor(1.0))) == 1
    assert float(reachable_scale(torch.tensor(0.0), torch.tensor(0.0))) == 1
