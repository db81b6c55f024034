"""The figure of ``filtune contest``: scores over the samples, a panel a stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filtune.experiments.tables import Table

from .contest import Curve, Stream, label
from .palette import looks


def draw(streams: Sequence[Stream], table: Table, target: Path) -> None:
    """The score over the samples: mean over the seeds, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    optimizers = {row.name: row.optimizer for row in table.rows}
    columns = panel_columns(len(streams))
    rows = -(-len(streams) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), layout="constrained", squeeze=False)
    for axis, stream in zip(axes.flat, streams, strict=False):
        entrants = {table.raw["contest"]["method"]: stream.method}
        entrants |= {label(name, duel): duel.rival for name, duel in stream.duels.items()}
        found = looks([(title, optimizers[e.name.split("/")[0]], "paper") for title, e in entrants.items()])
        for title, entrant in entrants.items():
            samples, scores = band([entrant.curve(seed, stream.metric) for seed in entrant.records])
            axis.plot(samples, scores.mean(0), color=found[title].colour, label=title)
            axis.fill_between(samples, scores.min(0), scores.max(0), color=found[title].colour, alpha=0.12, lw=0)
        axis.set_title(stream.title, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(streams) :]:
        axis.set_axis_off()
    online = streams[0].online
    for axis in axes[:, 0]:
        axis.set_ylabel("average online score (%)" if online else "validation score (%)", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("samples", fontsize=9)
    handles = {title: line for axis in axes.flat for line, title in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    figure.savefig(target, dpi=130)
    plt.close(figure)


def panel_columns(panels: int) -> int:
    """Two or three, by which the fewest places stay empty."""
    return min(range(min(panels, 2), min(panels, 3) + 1), key=lambda columns: (-panels % columns, -columns))


def band(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Curves at the samples of the first: (points,), (curves, points)."""
    samples = curves[0][0]
    return samples, np.stack([np.interp(samples, *curve) for curve in curves])
