"""A dense head's Jacobian is never formed, nor anything else of its size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical, LoKO
from filtune.optimizers.kalman.blocks import DenseBlock, OuterProduct
from filtune.optimizers.kalman.jacobian import JacobianBuilder
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

IN, OUT = 300, 40


class LargestOutput(TorchDispatchMode):
    """Watches every operation for the largest tensor it makes; views of nothing but strides do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def largest(attached: bool, B: int, steps: int, context: Callable[[], Any]) -> int:
    """The largest tensor made within a step of a large dense head on frozen features."""
    model = nn.Sequential(nn.Linear(4, IN), nn.Tanh(), nn.Linear(IN, OUT))
    model[0].requires_grad_(False)
    optimizer = LoKO(model[2].parameters())
    if attached:
        optimizer.attach(model)
    elements = 0
    for _ in range(steps):
        x, y = torch.randn(B, 4), torch.randint(OUT, (B,))

        def closure(x: Tensor = x, y: Tensor = y) -> Any:
            with context():
                return Categorical(model(x)).observe(y)

        with LargestOutput() as watch:
            optimizer.step(closure)
        elements = max(elements, watch.elements)
    return elements


def autocast() -> torch.autocast:
    """bfloat16 on the CPU."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("context", [torch.enable_grad, autocast], ids=["float32", "autocast"])
@pytest.mark.parametrize("B", [1, 2])
def test_nothing_of_the_jacobians_size_is_made(B: int, context: Callable[[], Any]) -> None:
    rows, n = B * (OUT - 1), OUT * IN + OUT
    elements = largest(True, B, 2, context)
    # besides a few tensors as large as the state: S, its ladder of four, the pairs of inputs, cotangents' derivatives
    assert elements <= max(n, 4 * rows**2, B**2 * IN, rows * B * OUT * B)
    assert elements < rows * OUT * IN / 8
    assert largest(False, B, 2, context) >= rows * OUT * IN


def test_the_head_is_factored_and_its_bias_is_not() -> None:
    model = nn.Linear(IN, OUT)
    builder = JacobianBuilder(list(model.parameters()), torch.float32)
    builder.attach(model)
    blocks = builder(model(torch.randn(1, IN)), torch.randn(1, OUT - 1, OUT)).blocks
    assert [(columns, type(block)) for columns, block in blocks] == [
        (slice(0, OUT * IN), OuterProduct),
        (slice(OUT * IN, OUT * IN + OUT), DenseBlock),
    ]
