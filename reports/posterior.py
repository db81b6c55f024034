"""What ``python -m benchmarks.uncertainty`` found, as a section of a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .statistics import paired, summarise
from .words import DASH

WORDS = {
    "accuracy": "accuracy (%)",
    "nll": "log loss (nats)",
    "brier": "Brier score",
    "ece": "calibration error (%)",
    "aurc": "error over all coverages (%)",
    "accuracy_at_80": "accuracy of the surest 80 % (%)",
}
"""How the figures are called; any other is the name of a kind of inputs that is to be told from what was learnt."""


def posterior(path: Path) -> list[str]:
    """Headings, words and tables.

    Raises:
        ValueError: If the file is not what the benchmark writes.
    """
    try:
        columns: dict[str, Any] = json.loads(path.read_text())["columns"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--posterior {path}: is not what `python -m benchmarks.uncertainty` writes") from error
    parts = [
        "## What the posterior is worth",
        'On validation samples after the stream. "Moderated" are the method\'s probabilities averaged over its '
        'posterior, as wide as the stream has taught it to take that, "in full" as wide as it is, "variance" that of '
        "its outputs. Where the name of a kind of inputs stands, the figure is the area "
        "under the ROC curve, in per cent, of telling them from the validation samples by the largest probability, or "
        "by the variance. In bold: better than the softmax of either, p < 0.05 in both paired t-tests over the seeds.",
    ]
    for name, views in columns.items():
        figures = list(dict.fromkeys(figure for found in views.values() for figure in found))
        lines = [["", *views], ["---", *("---:" for _ in views)]]
        lines += [
            [WORDS.get(figure, f"{figure}, told (%)"), *(_cell(views, view, figure) for view in views)]
            for figure in figures
        ]
        parts += [f"### {name}", "\n".join("| " + " | ".join(line) + " |" for line in lines)]
    return parts


def _cell(views: dict[str, Any], view: str, figure: str) -> str:
    if figure not in views[view]:
        return DASH
    own = views[view][figure]["seeds"]
    sample = summarise(own)
    assert sample is not None
    digits = 3 if figure in ("nll", "brier") else 1
    text = f"{sample.mean:.{digits}f}" + ("" if sample.deviation is None else f" ± {sample.deviation:.{digits}f}")
    plain = [found[figure]["seeds"] for name, found in views.items() if name.endswith("softmax") and name != view]
    return f"**{text}**" if not view.endswith("softmax") and all(_better(own, it, figure) for it in plain) else text


def _better(own: list[float], other: list[float], figure: str) -> bool:
    test = paired(dict(enumerate(own)), dict(enumerate(other)))
    lower = figure in ("nll", "brier", "ece", "aurc")
    return test is not None and test.significant and (test.difference < 0) == lower
