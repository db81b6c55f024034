"""A frozen backbone that FSDP2 has sharded over two processes, with an adapter that both hold whole.

The optimizers see the trained parameters alone, so that the sharding changes nothing but where frozen weights are.
"""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import RING, AdamW, Categorical, Filtune, LoKO, OnlineOptimizer, RKalman
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from tests.optimizers.processes import together

RULES = {"adamw": AdamW, "loko": LoKO, "r_kalman": RKalman, "filtune": Filtune, "ring": RING}


class Adapted(nn.Module):
    """A frozen layer with a low-rank change of it, twice, and a trained head."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(6, 2, bias=False) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(2, 6, bias=False) for _ in range(2))
        self.head = nn.Linear(6, 3)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for frozen, down, up in zip(self.frozen, self.down, self.up, strict=True):
            x = (frozen(x) + up(down(x))).tanh()
        return self.head(x)


def train(name: str, shard: bool) -> tuple[Tensor, list[int]]:
    """Return the trained parameters after five steps, and the sizes of the frozen ones in this process."""
    torch.manual_seed(0)
    model = Adapted().double()
    if shard:
        for layer in model.frozen:
            fully_shard(layer, reshard_after_forward=True)
    optimizer: OnlineOptimizer = RULES[name]([p for p in model.parameters() if p.requires_grad]).attach(model)
    x, y, rank = torch.randn(5, 4, 6).double(), torch.randint(3, (5, 4)), torch.distributed.get_rank()
    for step in range(5):
        torch.manual_seed(step)
        own, target = x[step].chunk(2)[rank], y[step].chunk(2)[rank]
        optimizer.step(lambda own=own, target=target: Categorical(model(own)).observe(target))
    trained = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    return trained, [(p.to_local() if shard else p).numel() for p in model.frozen.parameters()]


def train_all() -> dict[str, list[tuple[Tensor, list[int]]]]:
    """Return for every rule what :func:`train` returns with and without sharding."""
    return {name: [train(name, shard) for shard in (True, False)] for name in RULES}


@pytest.mark.slow  # two processes import FSDP
def test_steps_are_those_of_a_whole_backbone() -> None:
    """To the bit, on both processes; that two processes are as one is shown in ``test_ranks.py``."""
    first, second = together(2, train_all)
    for name in RULES:
        for (sharded, halves), (whole, sizes) in (first[name], second[name]):
            assert torch.equal(sharded, whole), name
            assert halves == [size // 2 for size in sizes]
        assert torch.equal(first[name][0][0], second[name][0][0]), name
