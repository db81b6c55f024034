"""Prequential predictions by class: precision, recall and F1, the confusion matrix, and the worst samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .formatting import DASH
from .styled import Markup, text_frame

if TYPE_CHECKING:
    from pandas import DataFrame

WORST = 10
"""Samples in a table of the worst ones."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of a configuration's runs, all seeds together.

    Attributes:
        classes: Names of the classes.
        confusion: Samples by true and predicted class, (m, m); None for too many classes.
        worst: The samples of the largest loss, the worst first, each with the ``seed`` of its run.
    """

    classes: list[str]
    confusion: np.ndarray | None
    worst: list[dict[str, Any]]

    def scores(self) -> np.ndarray:
        """Return precision, recall and F1 of each class in per cent, (m, 3); nan where they are not defined."""
        assert self.confusion is not None
        right, true, predicted = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        with np.errstate(invalid="ignore"):
            return 100 * np.stack([right / predicted, right / true, 2 * right / (true + predicted)], 1)


def joint_predictions(runs: Iterable[tuple[int, dict[str, Any]]]) -> Predictions | None:
    """Return the predictions of several seeds together; None of no run, and of runs with different classes.

    Args:
        runs: The seed and the content of ``predictions.json`` of each run.
    """
    found = list(runs)
    if not found or any(content["classes"] != found[0][1]["classes"] for _, content in found):
        return None
    matrices = [content["confusion"] for _, content in found]
    counted = all(matrix is not None for matrix in matrices)
    confusion = np.sum([np.array(matrix, dtype=np.int64) for matrix in matrices], 0) if counted else None
    worst = [{**sample, "seed": seed} for seed, content in found for sample in content["worst"]]
    return Predictions(found[0][1]["classes"], confusion, sorted(worst, key=lambda sample: -sample["loss"])[:WORST])


def class_frame(found: Sequence[tuple[str, Predictions]], markup: Markup) -> DataFrame:
    """Return the table of precision, recall and F1 of each class, and their means over the classes.

    Args:
        found: The label and the predictions of each configuration, with counts; those of other classes than the first
            are left out.
        markup: The language.
    """
    first = found[0][1]
    assert first.confusion is not None
    counts, same = first.confusion.sum(1), [(label, p.scores()) for label, p in found if p.classes == first.classes]

    def cell(precision: float, recall: float, f1: float) -> str:
        return f"{_percent(f1)}{markup.aside.format(f'P {_percent(precision)}, R {_percent(recall)}')}"

    rows = [
        (markup.escape(name), [f"{counts[i]:,}", *(cell(*scores[i]) for _, scores in same)])
        for i, name in enumerate(first.classes)
    ]
    with np.errstate(invalid="ignore"):
        means = [np.nansum(scores, 0) / np.isfinite(scores[:, 1]).sum() for _, scores in same]
    rows.append(("mean of the classes", [f"{counts.sum():,}", *(cell(*mean) for mean in means)]))
    heads = ["samples", *(markup.escape(f"F1 (%), {label}") for label, _ in same)]
    return text_frame("class", heads, rows)


def confusion_frame(found: Predictions, markup: Markup) -> DataFrame:
    """Return a confusion matrix: counts, with the share of the true class for the colour of a page."""
    assert found.confusion is not None
    shares = found.confusion / np.maximum(found.confusion.sum(1, keepdims=True), 1)
    names = [markup.escape(name) for name in found.classes]
    rows = (
        (names[i], [markup.shade.format(count or "", share) for share, count in zip(shares[i], row, strict=True)])
        for i, row in enumerate(found.confusion.tolist())
    )
    return text_frame("true \u2193 predicted \u2192", names, rows)


def worst_frame(found: Predictions, markup: Markup) -> DataFrame:
    """Return the table of the samples with the largest loss: what they show, their label and the prediction."""
    several = len({sample["seed"] for sample in found.worst}) > 1
    rows = []
    for sample in found.worst:
        label, predicted = (markup.escape(found.classes[sample[name]]) for name in ("label", "predicted"))
        known = (("seed", several), ("row", "row" in sample))
        origin = [f"{name} {sample[name]:,}" for name, is_shown in known if is_shown]
        place = f"{sample['position']:,}" + (markup.aside.format(", ".join(origin)) if origin else "")
        texts = [_shown(sample, markup), label, f"{predicted} ({sample['probability']:.3f})", f"{sample['loss']:.2f}"]
        rows.append((place, texts))
    return text_frame("position in the stream", ["sample", "label", "predicted (probability)", "loss (nats)"], rows)


def _shown(sample: dict[str, Any], markup: Markup) -> str:
    row = f"row {sample['row']:,}" if "row" in sample else DASH
    if "text" in sample:
        return markup.prose.format(markup.escape(" | ".join(sample["text"])))
    return markup.image.format(row, sample["image"]) if "image" in sample else row


def _percent(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else DASH
