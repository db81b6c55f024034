"""The interface of a covariance, and the check that it fits into memory."""

from __future__ import annotations

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...parts import Part, State
from ..blocks import BlockJacobian, Gain
from ..update import MeasurementUpdate

GIB = 2**30

MEMINFO = Path("/proc/meminfo")
"""What Linux says of its memory."""


class Correction(NamedTuple):
    """An update of the filter that is not yet taken.

    Attributes:
        delta: Change of the state, (n,).
        state: The posterior covariance.
        clamped: How many entries of its diagonal were raised to the lower bound, ().
    """

    delta: Tensor
    state: State
    clamped: Tensor


class Covariance(Part, ABC):
    """The covariance P of a state of n parameters.

    It has no state of its own: its tensors are passed in and returned. A new covariance is a subclass with a ``name``
    in a file of this folder; its options are the keyword-only parameters of its constructor, which checks them.

    Args:
        shapes: Shapes of the parameters, in the order of the state.

    Attributes:
        by_columns: Whether an update of some parameters needs the gain and their own columns of H alone, and what is
            kept has one entry per parameter: then several processes share the state.
        can_reset: Whether ``reset`` is implemented.
        uses_alarm: Whether it needs the alarm of a monitor.
        convertible: Options in which a saved state may differ, for ``upgrade`` converts it.
        jacobian_copies: Matrices of the size of the whole Jacobian that an update holds beside its blocks.
        factorisations: About how many Cholesky factorisations, in the space of the rows, an update takes as long as.
        on_host: Names of its tensors that stay on the host, wherever the parameters are, for they
            decide on shapes.
    """

    kind = "covariance"
    by_columns: ClassVar[bool] = False
    can_reset: ClassVar[bool] = False
    uses_alarm: bool = False
    on_host: ClassVar[frozenset[str]] = frozenset()
    convertible: ClassVar[frozenset[str]] = frozenset()
    jacobian_copies: ClassVar[int] = 0
    factorisations: ClassVar[int] = 40

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        self.shapes = list(shapes)
        self.n = sum(math.prod(shape) for shape in shapes)

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the tensors that are kept."""

    def select(self, state: State) -> State:
        """Return these tensors out of a filter's state."""
        return {name: state[name] for name in self.names()}

    @abstractmethod
    def elements(self) -> int:
        """Return how many numbers are kept."""

    @abstractmethod
    def start(self, prior: Tensor) -> State:
        """Return the covariance diag(prior), prior (n,)."""

    @abstractmethod
    def predict(self, state: State, q: float) -> State:
        """Return the covariance with process noise, P + q I (LoKO eq. 2b, GRNG Algorithm 2, line 5)."""

    @abstractmethod
    def project(self, state: State, H: BlockJacobian) -> tuple[Tensor, Any]:
        """Return HPH', (rows, rows), and intermediate results for ``correct``."""

    @abstractmethod
    def correct(
        self, state: State, H: BlockJacobian, projected: Any, gain: Gain, batch: MeasurementUpdate
    ) -> Correction:
        """Return the change of state and the posterior covariance (LoKO eqs. 3b and 3c)."""

    def commit(self, state: State, prior: State, posterior: State, finite: Tensor) -> None:
        """Take an update, if it is finite.

        Args:
            state: The filter's, changed in place.
            prior: The result of ``predict``, or the filter's own tensors.
            posterior: The result of ``correct``.
            finite: Whether it is finite, ().
        """
        for name, value in posterior.items():
            state[name] = torch.where(finite, value, state[name])

    def reset(self, state: State, columns: Sequence[slice], variance: Tensor, when: Tensor) -> None:
        """Set the variances of some columns to these, (k,), and their covariances to zero, in place, if ``when``.

        Raises:
            NotImplementedError: If this covariance cannot.
        """
        raise NotImplementedError(f"covariance {self.name} cannot reset a part of itself")

    def grow(self, state: State, before: Sequence[torch.Size], kept: Tensor, prior: Tensor) -> State:
        """Return the covariance after parameters have gained rows that no sample has had a derivative for.

        New entries are uncorrelated with all others and have their prior variance.

        Args:
            state: The tensors of before.
            before: Shapes of the parameters before; those of this object are the shapes now.
            kept: Where the entries of before are now, (n before,).
            prior: Variances of the new entries, at their places; those of the others are not looked at, (n,).

        Raises:
            ValueError: If this covariance cannot.
        """
        raise ValueError(f"covariance {self.name} cannot take new classes while it runs; take another one")

    @abstractmethod
    def variance(self, state: State) -> Tensor:
        """Return the diagonal of P, (n,)."""

    def upgrade(self, saved: State) -> State:
        """Return a saved state with the tensors that earlier releases did not keep."""
        return saved


def check_size(covariance: Covariance, dtype: torch.dtype, device: torch.device) -> None:
    """Check that a covariance fits into memory, before any of it is allocated.

    An update holds the prior, the posterior, and the one of them that is taken.

    Raises:
        ValueError: With the size in GiB.
    """
    needed = 3 * covariance.elements() * torch.finfo(dtype).bits // 8
    available = available_memory(device)
    if needed > available:
        raise ValueError(
            f"optimizer.covariance: {covariance.name} over {covariance.n:,} parameters takes {needed / 3 / GIB:,.1f} "
            f"GiB, and three times that in an update, of {available / GIB:,.1f} GiB of memory; take diagonal, low_rank "
            "or block_per_neuron, or fewer parameters (a lower model.backbone.rank)"
        )


def available_memory(device: torch.device) -> int:
    """Return the bytes available on a CUDA device or the machine; all of the machine's where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if MEMINFO.is_file():
        found = re.search(r"^MemAvailable: +(\d+) kB", MEMINFO.read_text(), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
