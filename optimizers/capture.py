"""Dense layers seen at one position: their input and output, recorded in the forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn


class Seen(NamedTuple):
    """One pass through a dense layer: its input (B, in), and its output (B, out) with the graph attached.

    ``version`` counts the in-place writes to ``y`` at that moment, ``training`` is the layer's mode.
    """

    x: Tensor
    y: Tensor
    version: int
    training: bool


class DenseCapture:
    """Records the dense layers of a model whose weight is trained.

    A layer counts where the forward pass went through it exactly once, with one row a sample: classification
    heads and the fully connected layers of small networks. Token-wise layers see many positions and do not, nor
    does a layer whose output was written over in place: the graph then knows it as another layer's output.

    Args:
        model: The model whose layers are watched.
        params: The trained parameters; layers whose weight is not among them are left alone.
    """

    def __init__(self, model: nn.Module, params: Iterable[Tensor]) -> None:
        self._trained = {id(p) for p in params}
        uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
        self._seen: dict[int, list[Seen]] = {}
        self._handles = [
            module.register_forward_hook(self._record, with_kwargs=True)
            for module in model.modules()
            if type(module) is nn.Linear and id(module.weight) in self._trained and uses[id(module.weight)] == 1
        ]

    def take(self, batch: int) -> dict[int, Seen]:
        """Hand over and forget what the last forward pass showed: id of the weight -> its pass."""
        seen, self._seen = self._seen, {}
        return {
            key: passes[0]
            for key, passes in seen.items()
            if len(passes) == 1
            and passes[0].x.dim() == 2
            and len(passes[0].x) == batch
            and passes[0].y._version == passes[0].version
        }

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        """A copied model takes its hooks along, but not the passes, whose graphs cannot be copied."""
        return {**self.__dict__, "_seen": {}}

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any], output: Tensor) -> None:
        if output.requires_grad and id(module.weight) in self._trained:  # not where functional_call put another
            passes = self._seen.setdefault(id(module.weight), [])
            if len(passes) < 2:  # a second pass rules the layer out; more would only keep graphs alive
                x = inputs[0] if inputs else named["input"]
                passes.append(Seen(x.detach(), output, output._version, module.training))
