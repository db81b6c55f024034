"""States of a learner to go back to: parameters and optimizer as they were, while everything else goes on."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from filtune.optimizers import OnlineOptimizer

from ..inputs import Inputs
from ..model import LiveModel


class KeptState(NamedTuple):
    """A copy of what a step changes.

    Attributes:
        step: Steps taken when it was kept.
        params: The trained parameters.
        optimizer: The state of the optimizer, a filter's covariance among it.
        targets: Estimates that follow the targets; None where there are none.
        average: The mean of the parameters.
        features: How the numbers of a table are standardised.
    """

    step: int
    params: list[torch.Tensor]
    optimizer: dict[str, Any]
    targets: dict[str, Any] | None
    average: dict[str, Any]
    features: dict[str, Any]


def kept_of(model: LiveModel, optimizer: OnlineOptimizer, inputs: Inputs, step: int) -> KeptState:
    """Return a copy of the present state."""
    targets = model.target_state
    return KeptState(
        step,
        [param.detach().clone() for param in optimizer.trained()],
        copy.deepcopy(optimizer.state_dict()),
        None if targets is None else copy.deepcopy(targets.state_dict()),
        copy.deepcopy(model.average.state_dict()),
        inputs.features.state(),
    )


@torch.no_grad()
def restore_kept(kept: KeptState, model: LiveModel, optimizer: OnlineOptimizer, inputs: Inputs) -> None:
    """Put a state in the place of the present one; learning rates stay, for they follow the steps taken."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    for param, value in zip(optimizer.trained(), kept.params, strict=True):
        param.copy_(value)
    optimizer.load_state_dict(copy.deepcopy(kept.optimizer))
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if rate is not None:
            group["lr"] = rate
    if model.target_state is not None and kept.targets is not None:
        model.target_state.load_state_dict(kept.targets)
    model.average.load_state_dict(kept.average)
    if inputs.modality == "table":
        inputs.features = type(inputs.features).of_state(kept.features)
