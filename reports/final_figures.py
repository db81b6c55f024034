"""Figures of one run: the reliability diagram of its predictions and the confusion matrix of its validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .plots import FAINT, INK, MATRICES, PAPER, new_figure, to_pixels

LONGEST = 12
"""Characters of a class's name beside a confusion matrix."""


def reliability_diagram(curves: dict[str, Tensor]) -> np.ndarray:
    """Return a reliability diagram as pixels, (height, width, 3) uint8.

    Args:
        curves: By name, the sums over the samples of each bin of the confidence: samples, confidences, hits, (3, bins).
    """
    with new_figure(1, 1, (3.6, 3.6)) as (figure, ((axis,),)):
        axis.plot([0, 1], [0, 1], color=FAINT, linestyle="--")
        for (name, sums), stroke in zip(curves.items(), ("-", ":"), strict=False):
            n, confidence, hits = sums.cpu().numpy()
            x, y = (total[n > 0] / n[n > 0] for total in (confidence, hits))
            axis.plot(x, y, stroke, color=INK, marker="o", ms=3, label=name)
            axis.scatter(x, y, s=120 * n[n > 0] / n.sum(), color=INK, alpha=0.3)  # its area: the samples of the bin
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title="Reliability, online")
        axis.legend(loc="upper left")
        return to_pixels(figure)


def confusion_figure(counts: Tensor, classes: Sequence[str]) -> np.ndarray:
    """Return a confusion matrix as pixels, (height, width, 3) uint8; shares of each true class, with the counts.

    Args:
        counts: Samples by true and predicted class, (m, m).
        classes: Names of the classes.
    """
    table, m = counts.cpu().numpy(), len(classes)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    plain = ["".join(each if each.isprintable() else "?" for each in name) for name in classes]
    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in plain]
    side = min(2.0 + 0.32 * m, 12.0)
    with new_figure(1, 1, (side, side)) as (figure, ((axis,),)):
        axis.imshow(shares, cmap=MATRICES, vmin=0, vmax=1)
        axis.grid(visible=False)
        axis.set_xticks(range(m), names, rotation=90)
        axis.set_yticks(range(m), names)
        axis.set(xlabel="predicted", ylabel="true", title="Confusion matrix, last validation")
        for i, j in np.argwhere(table) if m <= 30 else ():
            axis.text(
                j, i, table[i, j], ha="center", va="center", fontsize=7, color=INK if shares[i, j] > 0.6 else PAPER
            )
        return to_pixels(figure)
