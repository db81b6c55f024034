"""The rows of convolutions with groups: those of a loop, from one backward pass that all samples share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers.kalman.blocks import BlockJacobian
from filtune.optimizers.kalman.jacobian import JacobianBuilder
from timm.layers import Conv2dSame, StdConv2d
from torch import Tensor, nn

from tests.optimizers.models import rounding

CLOSE = rounding(1_000, 10, torch.float64)
D, M = 2, 3


def network(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(M)).double()


NETWORKS = {
    "depthwise": [nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)],
    "multiplied": [nn.Conv2d(4, 8, 3, groups=4, dilation=2, bias=False)],
    "grouped": [nn.Conv2d(4, 6, (3, 2), groups=2)],
    "pointwise": [nn.Conv2d(4, 6, 1, groups=2), nn.Tanh(), nn.Conv2d(6, 4, 1)],
    "single position": [nn.Conv2d(4, 4, 7, groups=4), nn.Tanh(), nn.Conv2d(4, 8, 1, groups=2)],
    "padded alike": [nn.Conv2d(4, 5, (3, 4), padding="same")],
    "padded in the forward pass": [Conv2dSame(4, 6, 3, stride=2), nn.Tanh(), Conv2dSame(6, 6, 2, groups=6)],
    "pixels left out": [Conv2dSame(4, 6, 1, stride=4), nn.Tanh(), Conv2dSame(6, 3, 1)],
    "separable": [nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Tanh(), nn.Conv2d(4, 5, 1), nn.Tanh()],
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_are_those_of_a_loop(name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(*NETWORKS[name])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, 7, 7, dtype=torch.float64, generator=generator)
    cotangents = torch.randn(batch, D, M, dtype=torch.float64, generator=generator)
    model(x)  # the head takes its size
    params = list(model.parameters())
    build = JacobianBuilder(params, torch.float64)
    build.attach(model)
    counts, vjp = [], JacobianBuilder._vjp

    def counted(own: JacobianBuilder, outputs: Tensor, inputs: Any, turns: Any) -> list[Tensor]:
        counts.append(sum(len(turn) for turn in turns))
        return vjp(own, outputs, inputs, turns)

    monkeypatch.setattr(JacobianBuilder, "_vjp", counted)
    for _ in range(2):  # once checking the layers, once not
        H: BlockJacobian = build(model(x), cotangents)
    truth = []
    for b in range(batch):
        for j in range(D):
            model.zero_grad()
            (model(x[b : b + 1])[0] @ cotangents[b, j]).backward()
            truth.append(torch.cat([p.grad.flatten() for p in params if p.grad is not None]))
    expected = torch.stack(truth)
    assert (H.dense() - expected).abs().max() <= CLOSE * expected.abs().max()
    assert counts == [D, D]  # rows of the backward pass, however many samples there are


class Shuffled(nn.Conv2d):
    """A convolution whose output has other channels than it says."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(super().forward(input), 2)


@pytest.mark.parametrize("layer", [StdConv2d(4, 8, 3, padding=1), Shuffled(4, 8, 3)], ids=["weight", "shape"])
def test_a_convolution_that_does_more_than_pad_has_the_rows_of_autograd(layer: nn.Module) -> None:
    """Its derivatives are not those of its patches: every sample then has rows of its own, and they are right."""
    model = network(layer)
    x = torch.randn(3, 4, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model(x)
    params = list(model.parameters())
    outputs, eye = model(x), torch.eye(M, dtype=torch.float64)
    grads = [torch.autograd.grad(outputs[b], params, row, retain_graph=True) for b in range(3) for row in eye]
    build = JacobianBuilder(params, torch.float64)
    build.attach(model)
    H = build(model(x), eye.expand(3, M, M)).dense()
    expected = torch.stack([torch.cat([grad.flatten() for grad in row]) for row in grads])
    assert (H - expected).abs().max() <= CLOSE * expected.abs().max()
