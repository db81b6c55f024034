"""``limit_val_batches`` takes the first batches: they are drawn from all of the source, and from every segment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filtune.datamodules import ChangingDataModule, DigitsDataModule, Segment, StreamDataModule
from filtune.datamodules.base import spread_order
from hypothesis import given
from hypothesis import strategies as st


def rows(module: StreamDataModule, limit: Any, key: str = "row") -> list[int]:
    """Return what the validation hands out."""
    trainer: Any = SimpleNamespace(limit_val_batches=limit, world_size=1, global_rank=0)
    module.trainer = trainer
    return [row for batch in module.val_dataloader() for row in batch[key].tolist()]


@pytest.mark.parametrize("limit", [1.0, 1, 2, 0.5, 0])
def test_a_limit_changes_the_order_alone(limit: float) -> None:
    module = DigitsDataModule(val_batch_size=10, max_val_samples=50)
    module.setup()
    found, whole = rows(module, limit), sorted(rows(module, 1.0))
    assert sorted(found) == whole
    assert (found == whole) == (limit == 1.0 and isinstance(limit, float))
    assert found == rows(module, limit)


def test_each_segment_is_in_the_first_batch() -> None:
    segments = [Segment(8, classes=[k, k + 1]) for k in (0, 2, 4)]
    module = ChangingDataModule([DigitsDataModule()], segments, validate="all", val_batch_size=12, seed=3)
    module.setup()
    regimes = rows(module, 1, "regime")
    assert {regimes.count(k) for k in range(3)} <= set(range(50, 70))
    assert [regimes[:12].count(k) for k in range(3)] == [4, 4, 4]
    assert set(rows(module, 1.0, "regime")[:12]) == {0}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 9))
def test_every_beginning_holds_the_share_of_each_group(groups: list[int], seed: int) -> None:
    """Of any two groups the one has as large a part of its samples as the other without its last."""
    drawn = spread_order(np.array(groups), seed)
    assert sorted(drawn) == list(range(len(groups)))
    found, sizes = np.array(groups)[drawn], np.bincount(groups)
    for n in range(1, len(groups) + 1):
        taken = np.bincount(found[:n], minlength=len(sizes))
        pace = max((taken[sizes > 0] - 1) / sizes[sizes > 0])
        assert (taken >= pace * sizes - 1e-9).all()
