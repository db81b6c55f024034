"""Parameter groups of a class of another package that takes some of the parameters only.

Muon moves matrices, LoRA-RITE pairs of LoRA matrices. What such a class does not take, AdamW does: the class itself
where it contains an AdamW, else one beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Group = dict[str, Any]
Arranged = tuple[list[Group], list[Group]]


def arrange(cls: type, params: Iterable[Any]) -> Arranged:
    """Return the parameter groups of a class, and those of the AdamW beside it.

    Args:
        cls: The class.
        params: Parameters or parameter groups.

    Raises:
        ValueError: If the class would have none of them.
    """
    given = list(params)
    groups: list[Group] = (
        [dict(each) for each in given] if given and isinstance(given[0], dict) else [{"params": given}]
    )
    for base in cls.__mro__:
        if split := _SPLITS.get(f"{base.__module__.partition('.')[0]}.{base.__name__}"):
            divide, kind = split
            found, rest = _joined(divide(group) for group in groups)
            if not found:
                raise ValueError(f"TorchOptimizer: {cls.__name__} finds no parameters of its kind: it takes {kind}")
            return found, rest
    return groups, []


def _flagged(group: Group) -> Arranged:
    """Return the groups of a class that takes tensors of two dimensions or more, flagged by ``use_muon``."""
    if "use_muon" in group:
        return [group], []
    parts = _divided(group["params"], lambda p: p.ndim >= 2)
    flags = zip(parts, (True, False), strict=True)
    return [{**group, "params": part, "use_muon": flag} for part, flag in flags if part], []


def _matrices(group: Group) -> Arranged:
    """Return the groups of a class that takes matrices."""
    return _beside(group, *_divided(group["params"], lambda p: p.ndim == 2))


def _pairs(group: Group) -> Arranged:
    """Return the groups of a class that takes pairs of LoRA matrices, A (r, n) before B (m, r, ...) in one group."""
    params = list(group["params"])
    pairs: list[Tensor] = []
    for a, b in pairwise(params):
        is_product = a.ndim >= 2 and b.ndim >= 2 and a.shape[0] == b.shape[1] and b[0, 0].numel() == 1
        if is_product and a.shape[0] <= min(a[0].numel(), b.shape[0]) and not any(a is used for used in pairs):
            pairs += [a, b]
    taken = {id(p) for p in pairs}
    return _beside(group, pairs, [p for p in params if id(p) not in taken])


_SPLITS: dict[str, tuple[Callable[[Group], Arranged], str]] = {
    "pytorch_optimizer.MuonBase": (_flagged, "tensors of two dimensions or more"),
    "pytorch_optimizer.LoRARite": (_pairs, "pairs of LoRA matrices, A (r, n) before B (m, r, ...) in one group"),
    "torch.Muon": (_matrices, "matrices"),
}


def _divided(params: Iterable[Tensor], test: Callable[[Tensor], bool]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters that pass a test, and the others."""
    every = list(params)
    return [p for p in every if test(p)], [p for p in every if not test(p)]


def _beside(group: Group, taken: list[Tensor], rest: list[Tensor]) -> Arranged:
    """Return the group with what is taken, and one for AdamW with the rest and the group's own learning rate."""
    own = {key: group[key] for key in ("lr",) if key in group}
    return [{**group, "params": taken}] if taken else [], [{**own, "params": rest}] if rest else []


def _joined(parts: Iterable[Arranged]) -> Arranged:
    found: Arranged = ([], [])
    for ours, rest in parts:
        found[0].extend(ours)
        found[1].extend(rest)
    return found


def fallback(groups: list[Group], lr: float) -> list[torch.optim.Optimizer]:
    """Return the AdamW for the groups that a class does not take, if there are any."""
    return [torch.optim.AdamW(groups, lr=lr, weight_decay=0.0)] if groups else []
