"""One factor for several layers with the same input, such as the query, key and value of an attention layer.

Layers that are given the same tensor have the same second moment E[xx'], and where their damping is the same, too, the
same inverse. Both are held once.

Shapes: ``U`` different inputs of ``L`` layers; ``V`` (L, r, k).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..distributed import Ranks
from ..layer_hooks import LayerIO
from .factors import Factor

SHARED = "shared"
"""Key of the state: for every layer the place of its input among the different ones. It is absent where all differ."""


def same_inputs(calls: Sequence[Sequence[LayerIO]]) -> list[int]:
    """Return for every layer the place of its input among the different ones, from the calls of each.

    Inputs are the same where every call was given the same memory, under the same mask. While the calls are held,
    nothing else can be there.
    """
    places: dict[tuple[Any, ...], int] = {}
    return [places.setdefault(tuple(_source(call) for call in own), len(places)) for own in calls]


def _source(call: LayerIO) -> tuple[Any, ...]:
    x, module = call.x, call.layer.module
    patches = [getattr(module, name, None) for name in ("kernel_size", "stride", "padding", "dilation")]
    where = x.data_ptr() or id(x)  # a tensor without memory of its own is like no other
    return where, x.shape, x.stride(), x.dtype, id(call.mask), *patches


def separate(state: dict[str, Any]) -> None:
    """Give every layer a factor of its own, in place, because the inputs are no longer the same."""
    places = state.pop(SHARED)
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() > 0:
            state[name] = value[places].clone()


class SharedFactor(Factor):
    """Factors of L layers with U different inputs.

    Args:
        factor: The factors of the inputs.
        places: For every layer the place of its input.
    """

    def __init__(self, factor: Factor, places: Sequence[int]) -> None:
        super().__init__(factor.state, factor.decay)
        self.factor, self.places = factor, places
        self.first = [places.index(place) for place in range(max(places) + 1)]
        most = max(places.count(place) for place in range(len(self.first)))
        self._slots = [place * most + places[:i].count(place) for i, place in enumerate(places)]
        self._room = len(self.first) * most
        self._in_order = self._slots == list(range(self._room))

    def add(self, rows: Sequence[Tensor], counts: Tensor, ranks: Ranks) -> None:
        """Add a refresh: of every input the rows of the first layer that has it."""
        self.factor.add([rows[i] for i in self.first], counts[self.first], ranks)

    def prepare(self, root: Tensor, c: Tensor) -> None:
        """Invert M + lam I; the scales c of layers with the same input are equal."""
        self.factor.prepare(root, c[self.first])

    def invert(self, lam: Tensor) -> None:
        """Invert M + lam I, lam (U,)."""
        self.factor.invert(lam)

    def solve(self, V: Tensor, lam: Tensor | None = None) -> Tensor:
        """Return V (M + lam I)^-1, lam (U,)."""
        return self._unpack(self.factor.solve(self._pack(V), lam), V)

    def times(self, V: Tensor) -> Tensor:
        """Return the product VM."""
        return self._unpack(self.factor.times(self._pack(V)), V)

    def spectral_norm(self) -> Tensor:
        """Return |M|_2 of every layer."""
        return self.factor.spectral_norm()[self.places]

    def trace(self) -> Tensor:
        """Return tr M of every layer."""
        return self.factor.trace()[self.places]

    def residual(self) -> Tensor:
        """Return the residual of the inverse of every input, (U,)."""
        return self.factor.residual()

    def _pack(self, V: Tensor) -> Tensor:
        """Return the rows of layers with the same input below each other, (U, most * r, k), or zeros."""
        if not self._in_order:
            packed = V.new_zeros(self._room, *V.shape[1:])
            packed[self._slots] = V
            V = packed
        return V.reshape(len(self.first), -1, V.shape[-1])

    def _unpack(self, packed: Tensor, V: Tensor) -> Tensor:
        found = packed.reshape(self._room, *V.shape[1:])
        return found if self._in_order else found[self._slots]
