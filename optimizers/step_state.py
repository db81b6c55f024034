"""The changes of a step on the host: numbers, attributes, and which tensors the state of an optimizer holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .base import OnlineOptimizer
from .performance import RECENT

Path = tuple[Any, ...]
"""Where an entry of the state is: its keys, the first of them ``state`` or ``_memory``."""


class HostState:
    """An optimizer's state and attributes before a step is recorded, by reference.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: OnlineOptimizer) -> None:
        self.optimizer, self.attributes = optimizer, dict(vars(optimizer))
        self.leaves = dict(state_entries(optimizer))
        self.host = {
            path: value.clone() if isinstance(value, Tensor) else value
            for path, value in self.leaves.items()
            if is_number(value, optimizer)
        }
        self.containers = {path: dict(holder) for path, holder in containers(optimizer)}

    def numbers_since(self) -> dict[Path, Any]:
        """Return by how much numbers on the host have changed."""
        now = dict(state_entries(self.optimizer))
        changes = {path: now[path] - value for path, value in self.host.items() if path in now}
        return {path: change for path, change in changes.items() if bool(change)}

    def attributes_since(self) -> dict[str, Any]:
        """Return the attributes that have been set."""
        now = vars(self.optimizer)
        apart = {"state", "param_groups", "follow", "step", "_follower", "_memory"}
        return {
            name: value for name, value in now.items() if name not in apart and self.attributes.get(name) is not value
        }

    def restore(self) -> None:
        """Undo what a failed recording has done on the host; nothing was done on the device."""
        kept = {name: value for name, value in self.attributes.items() if name != "follow"}
        vars(self.optimizer).clear()
        vars(self.optimizer).update(kept)
        for path, contents in self.containers.items():
            holder = holder_of(self.optimizer, (*path, None))
            assert holder is not None
            holder.clear()
            holder.update(contents)
        for path, value in self.host.items():
            leaf = self.leaves[path]
            if isinstance(leaf, Tensor):
                leaf.copy_(value)


def containers(optimizer: OnlineOptimizer) -> Iterator[tuple[Path, dict[Any, Any]]]:
    """Yield the dictionaries of the state with their paths, an outer one before those in it."""
    pending: list[tuple[Path, dict[Any, Any]]] = [(("state",), optimizer.state), (("_memory",), _memory(optimizer))]
    while pending:
        path, holder = pending.pop(0)
        yield path, holder
        pending += [((*path, key), value) for key, value in holder.items() if isinstance(value, dict)]


def state_entries(optimizer: OnlineOptimizer) -> Iterator[tuple[Path, Any]]:
    """Yield the entries of the state, but the recent scores, which are followed beside the graphs."""
    for path, holder in containers(optimizer):
        for key, value in holder.items():
            if not isinstance(value, dict) and key != RECENT:
                yield (*path, key), value


def holder_of(optimizer: OnlineOptimizer, path: Path) -> dict[Any, Any] | None:
    """Return the dictionary that has the last key of a path; None where it is gone."""
    holder: Any = optimizer.state if path[0] == "state" else _memory(optimizer)
    for key in path[1:-1]:
        holder = holder.get(key) if isinstance(holder, dict) else None
    return holder if isinstance(holder, dict) else None


def advance(optimizer: OnlineOptimizer, path: Path, change: Any) -> None:
    """Add to a number on the host."""
    holder = holder_of(optimizer, path)
    assert holder is not None
    holder[path[-1]] += change  # of a tensor in place


def is_on_device(value: Any, optimizer: OnlineOptimizer) -> bool:
    """Return whether a value is a tensor where the parameters are."""
    return isinstance(value, Tensor) and value.device == next(optimizer.trained()).device


def is_number(value: Any, optimizer: OnlineOptimizer) -> bool:
    """Return whether a value is a number that the host keeps."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and value.dtype != torch.bool and not is_on_device(value, optimizer)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _memory(optimizer: OnlineOptimizer) -> dict[Any, Any]:
    """Return what is followed from step to step, where it is no part of the state."""
    return vars(optimizer).get("_memory", {})
