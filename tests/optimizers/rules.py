"""Every optimizer there is, for tests of what all of them must do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from filtune.optimizers import EKF, Categorical, OnlineOptimizer
from filtune.optimizers.kalman.covariance import Covariance
from torch import Tensor, nn

from filtune import optimizers

Rule = Callable[[Iterable[Any]], OnlineOptimizer]

PUBLIC = {
    name: cls
    for name, cls in ((name, getattr(optimizers, name)) for name in optimizers.__all__)
    if isinstance(cls, type) and issubclass(cls, OnlineOptimizer) and not vars(cls).get("abstract", False)
}
"""All public optimizers by name, as they are found."""

NATURAL = tuple(name for name, cls in PUBLIC.items() if cls.__module__.startswith("filtune.optimizers.kfac"))

RULES: dict[str, Rule] = {
    **PUBLIC,
    **{f"EKF {covariance}": partial(EKF, covariance=covariance) for covariance in Covariance.registry},
    "SAM adamw": partial(PUBLIC["SAM"], base="adamw"),
}
"""All of them, and their variants with a state of its own kind."""


class Scaled(nn.Module):
    """5 -> 7 -> 3 with tanh, and a scale without dimensions; float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.scale, self.last = nn.Linear(5, 7), nn.Parameter(torch.tensor(1.5)), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, 3)."""
        return self.last(torch.tanh(self.first(x) * self.scale))


def take_steps(optimizer: OnlineOptimizer, model: nn.Module, steps: int, seed: int = 0, B: int = 2) -> None:
    """Take steps on random samples, with all that is drawn from the seed."""
    for k in range(steps):
        torch.manual_seed(1000 * seed + k)
        x, y = torch.randn(B, 5), torch.randint(3, (B,))
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
