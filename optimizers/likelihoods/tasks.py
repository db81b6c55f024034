"""Task of a likelihood beside probabilities: labels, metrics, and estimates that follow the stream."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .base import Observation


@dataclass(frozen=True)
class Metric:
    """Declaration of one metric; ``lightning_modules.metrics`` imports and builds it when a run needs it.

    Args:
        path: Dotted path of a torchmetrics class, ``package.module.Class``.
        arguments: Its keyword arguments.
        takes: What it compares with the target: ``mean``, the expected observation such as probabilities, or
            ``answer``, the point prediction shaped like a target.
        percent: Whether it is in 0..1 (or -1..1) and is reported times 100.
        higher_is_better: Whether a larger value is better.
    """

    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    takes: Literal["mean", "answer"] = "mean"
    percent: bool = True
    higher_is_better: bool = True


@dataclass(frozen=True)
class Coding:
    """Encoding of labels as targets, and of predictions as labels.

    Args:
        classes: Names of the classes, in the order of their targets; empty where labels are numbers.
        options: What else the likelihood needs, such as the separator of a list of labels.
    """

    classes: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


class BadLabel(NamedTuple):
    """A label that cannot be used: the reason, which rows may share, and what was found in this one."""

    reason: str
    detail: str = ""


class Encoded(NamedTuple):
    """Targets of label values, (N,) or (N, m), and what is wrong with some of them, by position."""

    targets: Tensor
    bad: dict[int, BadLabel]


MISSING = BadLabel("missing label")


class StreamState(nn.Module, ABC):
    """Estimates that follow the targets seen so far, such as their location and scale.

    The owner calls :meth:`see_targets` with the targets of a batch before the update, :meth:`see_residuals` with the
    observation made before the update, and hands :meth:`value` to :meth:`Likelihood.of`. Where several processes learn
    together, both take the samples of all of them, so that the state is the same everywhere. All of it is in buffers.
    """

    count: Tensor
    _seen = False

    @property
    def is_ready(self) -> bool:
        """True once a target has been seen; waits for the device until then."""
        self._seen = self._seen or bool(self.count > 0)
        return self._seen

    @abstractmethod
    def value(self) -> Any:
        """Return the current estimates, which later updates leave as they are."""

    @abstractmethod
    def see_targets(self, target: Tensor) -> None:
        """Take in the targets of a batch, (B,) or (B, m)."""

    def see_residuals(self, observation: Observation) -> None:
        """Take in the residuals of a batch predicted before the update."""
        return

    @abstractmethod
    def affine(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (m,): outputs times scale plus shift need no state to be understood."""


def label_name(value: Any) -> str | None:
    """Return the name of the class that a raw label means; None where the label is missing."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float):
        return (str(int(value)) if value.is_integer() else repr(value)) if math.isfinite(value) else None
    return str(value)


def read_numbers(values: Sequence[Any]) -> Encoded:
    """Return labels as float32 numbers, (N,): numbers, booleans, and text that reads as a number.

    Bad are missing labels (None, NaN, blank text), what is no single number, and what is no finite float32.
    """
    try:
        if any(isinstance(value, str) for value in values):  # of empty ones, torch makes a tensor without elements
            raise TypeError
        found = torch.tensor(values, dtype=torch.float64)
        if found.dim() != 1:  # lists of numbers, all of one length
            raise TypeError
    except (
        TypeError,
        ValueError,
        RuntimeError,
        OverflowError,
    ):  # text, a missing value, a long integer
        found = torch.tensor([_number(value) for value in values], dtype=torch.float64)
    targets = found.float()
    bad = {}
    for i in (~targets.isfinite()).nonzero().flatten().tolist():
        value = values[i]
        missing = label_name(value) is None and not (isinstance(value, float) and math.isinf(value))
        bad[i] = MISSING if missing else BadLabel("label is not a finite number", repr(value))
    return Encoded(targets, bad)


def short_list(names: Sequence[str]) -> str:
    """Return at most ten names, of at most sixty characters each, for a message."""
    short = [name if len(name) <= 60 else f"{name[:40]}...{name[-17:]}" for name in names[:10]]
    return ", ".join(short) + (" ..." if len(names) > 10 else "")


def _number(value: Any) -> float:
    try:
        return float("nan") if value is None or (isinstance(value, str) and "_" in value) else float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
