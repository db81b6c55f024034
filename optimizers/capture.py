"""Dense layers seen at one position: their input and output, recorded in the forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn


class Seen(NamedTuple):
    """One pass through a dense layer: its input (B, in), and its output (B, out) with the graph attached."""

    x: Tensor
    y: Tensor


class DenseCapture:
    """Records the dense layers of a model whose weight is trained.

    A layer counts where the forward pass went through it exactly once, with one row a sample: classification
    heads and the fully connected layers of small networks. Token-wise layers see many positions and do not.

    Args:
        model: The model whose layers are watched.
        params: The trained parameters; layers whose weight is not among them are left alone.
    """

    def __init__(self, model: nn.Module, params: Iterable[Tensor]) -> None:
        trained = {id(p) for p in params}
        uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
        self._seen: dict[int, list[Seen]] = {}
        self._handles = [
            module.register_forward_hook(self._record)
            for module in model.modules()
            if type(module) is nn.Linear and id(module.weight) in trained and uses[id(module.weight)] == 1
        ]

    def take(self, batch: int) -> dict[int, Seen]:
        """Hand over and forget what the last forward pass showed: id of the weight -> its pass."""
        seen, self._seen = self._seen, {}
        return {
            key: passes[0]
            for key, passes in seen.items()
            if len(passes) == 1 and passes[0].x.dim() == 2 and len(passes[0].x) == batch
        }

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad and isinstance(module.weight, Tensor):
            self._seen.setdefault(id(module.weight), []).append(Seen(inputs[0].detach(), output))
