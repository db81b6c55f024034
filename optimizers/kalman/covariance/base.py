"""What a filter asks of a covariance, and how much memory one may take."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..blocks import BlockJacobian, Gain
from ..measurement import Measurement

State = dict[str, Tensor]

GIB = 2**30


class Correction(NamedTuple):
    """An update of the filter, not yet taken.

    Attributes:
        change: Change of the state, (n,).
        state: The posterior covariance.
        clamped: Entries of its diagonal that met the floor, ().
    """

    change: Tensor
    state: State
    clamped: Tensor


class Covariance(ABC):
    """The covariance P of a state of n parameters; its tensors are handed to it and back.

    Args:
        shapes: Shapes of the parameters, in the order of the state.
        rank: Rank of what is kept beside the diagonal, where there is one.
        buffer: See :class:`optimizers.kalman.covariance.buffered.Buffered`, as for the rest.
    """

    by_columns = False
    """Whether an update of some parameters needs the gain and their own columns of H alone, and what is kept has one
    entry a parameter: then several processes share the state out."""

    def __init__(
        self, shapes: Sequence[torch.Size], rank: int = 0, buffer: int = 0, keep: int = 0, forget: float = 1.0
    ) -> None:
        self.shapes, self.rank, self.buffer, self.keep, self.forget = list(shapes), rank, buffer, keep, forget
        self.n = sum(math.prod(shape) for shape in shapes)

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the tensors that are kept."""

    def select(self, state: State) -> State:
        """Those tensors, out of a filter's state."""
        return {name: state[name] for name in self.names()}

    @abstractmethod
    def elements(self) -> int:
        """How many numbers are kept."""

    @abstractmethod
    def start(self, prior: Tensor) -> State:
        """The covariance diag(prior), prior (n,)."""

    @abstractmethod
    def predict(self, state: State, q: float) -> State:
        """Add process noise, P <- P + q I (LoKO eq. 2b, GRNG Algorithm 2, line 5)."""

    @abstractmethod
    def project(self, state: State, H: BlockJacobian) -> tuple[Tensor, Any]:
        """HPH', (rows, rows), and whatever ``correct`` can use of the way there."""

    @abstractmethod
    def correct(self, state: State, H: BlockJacobian, projected: Any, gain: Gain, batch: Measurement) -> Correction:
        """The change of state and the posterior covariance (LoKO eqs. 3b and 3c)."""

    def commit(self, state: State, prior: State, change: Tensor, posterior: State, finite: Tensor) -> None:
        """Take an update, if it is finite.

        Args:
            state: The filter's, changed in place.
            prior: What ``predict`` gave, or its own tensors.
            change: Change of the state, zero if it is not finite.
            posterior: What ``correct`` gave.
            finite: Whether it is, ().
        """
        for name, value in posterior.items():
            state[name] = torch.where(finite, value, state[name])

    def renew(self, state: State, variance: Tensor, when: Tensor) -> None:
        """Drop what was learnt about the last parameters, in place, and give them these variances, (k,), if ``when``.

        Raises:
            NotImplementedError: If this covariance cannot.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot renew a part of itself")

    @abstractmethod
    def variance(self, state: State) -> Tensor:
        """Diagonal of P, (n,)."""


def check_size(covariance: Covariance, name: str, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a state that cannot fit, before any of it is made. An update needs it twice.

    Raises:
        ValueError: With the size in GiB.
    """
    needed = 2 * covariance.elements() * torch.finfo(dtype).bits // 8
    available = _memory(device)
    if needed > available:
        raise ValueError(
            f"optimizer.covariance: {name} over {covariance.n:,} parameters takes {needed / 2 / GIB:,.1f} GiB, and "
            f"twice that in an update, of {available / GIB:,.1f} GiB of memory; take diagonal, low-rank or neuron, or "
            "fewer parameters (a lower model.backbone.rank)"
        )


def _memory(device: torch.device) -> int:
    """Bytes free on a CUDA device, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
