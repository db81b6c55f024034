"""Small learners of tables of numbers, and streams for them, for the tests of watching."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

from filtune import AdamW, OnlineLearner

FAST = partial(AdamW, lr=0.02)


def new_table_learner(kind: str = "classification", optimizer: Any = FAST, **options: Any) -> OnlineLearner:
    if kind == "classification":
        options = {"classes": ["a", "b"], **options}
    return OnlineLearner(kind, {"name": "mlp"}, optimizer, modality="table", **options)


def stream(count: int, flipped: int = 0, seed: int = 0) -> list[tuple[dict[str, float], str]]:
    """Samples of two classes that a line separates; after the first ``count`` their labels are exchanged."""
    source = random.Random(seed)
    rows = [{"u": source.gauss(0, 1), "v": source.gauss(0, 1)} for _ in range(count + flipped)]
    labels = ["a" if row["u"] + row["v"] > 0 else "b" for row in rows]
    return [(row, y if i < count else "ab".replace(y, "")) for i, (row, y) in enumerate(zip(rows, labels, strict=True))]
