"""A diverging optimizer stops the run, or goes back to the last good state bit for bit."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from filtune.lightning_modules.monitoring import MOST_REWINDS, Watch
from filtune.optimizers import EKF, SGD, AdamW, Categorical, Gaussian, LoKO, OnlineOptimizer
from filtune.optimizers.likelihoods.gaussian import TargetScaling
from torch import nn

RULES: dict[str, Any] = {
    "LoKO": LoKO,
    "LoFi": lambda params: EKF(params, covariance="low_rank", rank=3),
    "AdamW": AdamW,
    "SGD with momentum": lambda params: SGD(params, momentum=0.9),
}


def step(optimizer: OnlineOptimizer, model: nn.Module, value: float) -> None:
    x = torch.full((1, 5), value)
    optimizer.step(lambda: Categorical(model(x)).observe(torch.tensor([1])))


def everything(optimizer: OnlineOptimizer) -> list[torch.Tensor]:
    """Parameters and state, copied."""
    tensors = list(optimizer.trained())
    for state in optimizer.state_dict()["state"].values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return [tensor.detach().clone() for tensor in tensors]


@pytest.mark.parametrize("rule", RULES)
def test_rewinding_restores_parameters_and_state_and_the_optimizer_goes_on(rule: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer, watch = RULES[rule](model.parameters()), Watch("rewind")
    step(optimizer, model, 1.0)
    watch.keep(optimizer, 1)
    good = everything(optimizer)
    step(optimizer, model, 0.5)
    watch.check(optimizer, 2)
    assert watch.rewinds == 0
    step(optimizer, model, float("nan"))
    with pytest.warns(UserWarning, match="restored to those of step 1 "):
        watch.check(optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(everything(optimizer), good, strict=True))
    step(optimizer, model, 0.5)
    watch.check(optimizer, 4)
    assert watch.rewinds == 1
    assert not all(torch.equal(a, b) for a, b in zip(everything(optimizer), good, strict=True))


def test_rewinding_restores_the_estimates_that_follow_the_targets() -> None:
    model, state = nn.Linear(5, 3), TargetScaling(1)
    optimizer, watch = AdamW(model.parameters()), Watch("rewind")
    state.see_targets(torch.tensor([1.0, 3.0]))
    watch.keep(optimizer, 1, state)
    good = {name: value.clone() for name, value in state.state_dict().items()}
    state.see_targets(torch.tensor([1e6]))
    state.see_residuals(Gaussian(torch.tensor([[1e15]]), state.value()).observe(torch.tensor([1.0])))
    assert not all(torch.equal(value, good[name]) for name, value in state.state_dict().items())
    step(optimizer, model, float("nan"))
    with pytest.warns(UserWarning, match="restored to those of step 1 "):
        assert watch.check(optimizer, 2, state)
    assert all(torch.equal(value, good[name]) for name, value in state.state_dict().items())


@pytest.mark.parametrize("rule", RULES)
def test_stopping_names_the_step(rule: str) -> None:
    model = nn.Linear(5, 3)
    optimizer, watch = RULES[rule](model.parameters()), Watch("stop")
    watch.keep(optimizer, 0)
    step(optimizer, model, 1.0)
    step(optimizer, model, float("nan"))
    with pytest.raises(FloatingPointError, match="^step 7: .*take a smaller --optimizer") as error:
        watch.check(optimizer, 7)
    if isinstance(optimizer, (LoKO, EKF)):
        assert "diverged at step 2: an update was not finite" in str(error.value)


def test_it_does_not_go_back_for_ever() -> None:
    model = nn.Linear(5, 3)
    optimizer, watch = LoKO(model.parameters()), Watch("rewind")
    watch.keep(optimizer, 0)
    for _ in range(MOST_REWINDS):
        step(optimizer, model, float("nan"))
        with pytest.warns(UserWarning, match="restored to those of step 0"):
            watch.check(optimizer, 1)
    step(optimizer, model, float("nan"))
    with pytest.raises(FloatingPointError, match=f"after {MOST_REWINDS} rollbacks"):
        watch.check(optimizer, 1)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.on_divergence: must be stop, rewind or warn"):
        Watch("pray")  # type: ignore[arg-type]


def test_a_comparison_may_go_on_with_a_warning() -> None:
    """Once, and nothing is restored."""
    model = nn.Linear(5, 3)
    optimizer, watch = SGD(model.parameters()), Watch("warn")
    watch.keep(optimizer, 1)
    step(optimizer, model, float("nan"))
    with pytest.warns(UserWarning, match=r"^step 2: 1 non-finite gradients: .*; it goes on"):
        assert not watch.check(optimizer, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not watch.check(optimizer, 3)
    assert watch.rewinds == 0
