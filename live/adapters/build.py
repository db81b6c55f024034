"""The learner of an adapter, which is built at its first sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from filtune.optimizers import Filtune

from ..features import FEATURES, row_of
from ..learner import OnlineLearner
from ..settings import make_task, modality_of, read_backbone

MLP = {"name": "mlp", "pretrained": False}
"""Backbone of an adapter where none is named."""

LEAST_FEATURES = 16
"""Places for features at least, and twice as many as the first sample has, for those that come later."""


def takes_numbers(backbone: Any, options: Mapping[str, Any] | None) -> bool:
    """Return whether the samples of a backbone are numbers by name, and no texts or images."""
    options = options or {}
    if backbone is None or "modality" in options or "image_shape" in options:
        return backbone is None or options.get("modality") == "table"
    if isinstance(backbone, str | Mapping):
        backbone = read_backbone({"name": backbone} if isinstance(backbone, str) else backbone, None)
    return modality_of(backbone) == "table"


def build_learner(
    kind: str,
    first: Any,
    backbone: Any = None,
    optimizer: Any = None,
    classes: Sequence[Any] | str = (),
    seed: int = 0,
    config: Any = None,
    options: Mapping[str, Any] | None = None,
) -> OnlineLearner:
    """Return the learner of an adapter.

    Args:
        kind: ``classification`` or ``regression``.
        first: The first sample. A table gets places for twice its features, 16 at least and 64 at most unless it has
            more itself.
        backbone: As for :class:`OnlineLearner`; by default a small network on numbers.
        optimizer: As for :class:`OnlineLearner`; by default Filtune.
        classes: The classes, or ``open``; empty for a regression.
        seed: As for :class:`OnlineLearner`.
        config: A configuration of ``fit`` in place of backbone, optimizer and seed.
        options: Further arguments of :class:`OnlineLearner`, or of ``from_config``.

    Raises:
        ValueError: Naming the argument that is wrong.
    """
    options = dict(options or {})
    if config is not None:
        if backbone is not None or optimizer is not None:
            raise ValueError("config: it names backbone and optimizer itself; leave these out, or leave config out")
        return OnlineLearner.from_config(config, classes=classes or None, **options)
    backbone = MLP if backbone in (None, "mlp") else backbone
    task: Any = kind
    if takes_numbers(backbone, options):
        options.pop("modality", None)
        count = len(row_of(first, options.get("columns") or ()))
        places = len(options.get("columns") or ()) or max(count, min(FEATURES, max(LEAST_FEATURES, 2 * count)))
        task = replace(make_task(kind, classes, "table", (1, 1, 1)), features=places)
    return OnlineLearner(task, backbone, optimizer or Filtune, classes, seed=seed, **options)
