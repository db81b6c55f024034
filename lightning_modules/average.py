r"""The mean of the trained parameters over the last steps, which foretells better than where the last batch left them.

.. math:: \bar\theta \leftarrow \bar\theta + (\theta - \bar\theta) \max\Big(\frac{4}{k + 3}, \frac1K\Big)

after step k: over the last quarter of the steps, so that the early ones are soon forgotten (polynomial decay: Shamir &
Zhang 2013, with eta = 3), and over no more than K. What is learnt is theta, as without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .resume import compare_names


class Average:
    """Keeps the mean of a model's trained parameters.

    Args:
        model: The model.
        steps: K, over how many steps it fades at most; 0 keeps none.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.steps, self.count = steps, 0
        self.params = {name: param for name, param in model.named_parameters() if param.requires_grad}
        self.mean: dict[str, Tensor] = {}

    def restart(self) -> None:
        """Forget the mean, where the parameters have been taken back."""
        self.count, self.mean = 0, {}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters after a step in."""
        if not self.steps:
            return
        self.count += 1
        if not self.mean:
            self.mean = {name: param.detach().clone() for name, param in self.params.items()}
        weight = max(4 / (self.count + 3), 1 / self.steps)
        torch._foreach_lerp_(self._means(), list(self.params.values()), weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """With the mean in place of the parameters; where there is none yet, with these as they are."""
        if not self.mean:
            yield
            return
        params = list(self.params.values())
        own = [param.detach().clone() for param in params]
        with torch.no_grad():
            torch._foreach_copy_(params, self._means())
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, own)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's.

        Raises:
            CheckpointError: If it is of another model.
        """
        if state["mean"]:
            compare_names(state["mean"], self.params)
        device = {name: param.device for name, param in self.params.items()}
        self.count, self.mean = state["count"], {name: mean.to(device[name]) for name, mean in state["mean"].items()}

    def _means(self) -> list[Tensor]:
        return [self.mean[name] for name in self.params]
