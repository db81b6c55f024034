"""The description of an optimizer's steps for those who record them as CUDA graphs."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


class Recordable:
    """A base of optimizers whose step is a fixed sequence of operations on the device."""

    param_groups: list[dict[str, Any]]
    state: Any

    def unrecordable(self) -> str | None:
        """Return why no step can be recorded, as a sentence without a subject; None where some can."""
        if any(group.get("lr_decay") for group in self.param_groups):
            return "lr_decay changes the learning rate at every step; set it to 0"
        return None

    def step_kind(self) -> Hashable:
        """Return what the operations of the next step depend on, beside the shapes of its batch and the options.

        None stands for a step that must not be recorded, for it waits for the device or prepares others.
        """
        return ()

    @contextmanager
    def recordable(self) -> Iterator[None]:
        """Let torch's own rules keep their count of steps on the device while a step is taken."""
        groups = [group for group in self.param_groups if "capturable" in group]
        before = [group["capturable"] for group in groups]
        for group in groups:
            group["capturable"] = True
            for param in group["params"]:
                count = self.state[param].get("step") if param in self.state else None
                if isinstance(count, Tensor) and count.device != param.device:
                    self.state[param]["step"] = count.to(param.device, non_blocking=True)
        try:
            yield
        finally:
            for group, value in zip(groups, before, strict=True):
                group["capturable"] = value
