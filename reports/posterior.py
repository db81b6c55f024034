"""The part of a report about the posterior after a stream: calibration and out-of-distribution detection."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtune.experiments.escaping import escape_markdown
from filtune.experiments.fields import NUMBER

from .formatting import DASH
from .page import Block, Heading, PagePart, TableBlock, Text
from .statistics import paired, summarise
from .styled import Markup, escape_tex, text_frame

if TYPE_CHECKING:
    from pandas import DataFrame

TITLE = "Calibration and out-of-distribution detection with the posterior"
MEANING = (
    'On validation samples after the stream. "Posterior predictive" are the method\'s probabilities averaged over '
    'its posterior, with the tempering estimated on the stream; "untempered" without it; "variance" is that of '
    "its outputs. For a kind of out-of-distribution inputs, the value is the area under the ROC curve, in per "
    "cent, of detecting them among the validation samples by the largest probability, or by the variance. Bold: "
    "better than the softmax of either, p < 0.05 in both paired t-tests over the seeds."
)
POSTERIOR = {
    "accuracy": "accuracy (%)",
    "nll": "log loss (nats)",
    "brier": "Brier score",
    "ece": "calibration error (%)",
    "aurc": "error over all coverages (%)",
    "accuracy_at_80": "accuracy at 80 % coverage (%)",
}
"""Titles of the metrics of :mod:`reports.evaluation`; another is the name of a kind of out-of-distribution inputs."""


def posterior_part(path: Path) -> PagePart:
    """Return the part on the posterior, of the JSON that ``filtune report --evaluate`` writes.

    Raises:
        ValueError: If the file is not what the evaluation writes.
    """
    blocks: list[Block] = [Text(MEANING)]
    for name, views in _read(path).items():
        table = TableBlock(partial(_frame, views), escape_tex(f"{TITLE}: {name}"))
        blocks += [Heading(escape_markdown(name)), table]
    return PagePart("posterior", TITLE, blocks)


def _frame(views: dict[str, Any], markup: Markup, _: Any) -> DataFrame:
    metrics = list(dict.fromkeys(metric for found in views.values() for metric in found))
    rows = (
        (
            markup.escape(POSTERIOR.get(metric, f"{metric}, detected (%)")),
            [markup.strong(*_posterior_cell(views, view, metric)) for view in views],
        )
        for metric in metrics
    )
    return text_frame("", [markup.escape(_view_title(view)) for view in views], rows)


def posterior_streams(path: Path) -> list[str]:
    """Return the names of the streams that were evaluated."""
    return list(_read(path))


def _read(path: Path) -> dict[str, Any]:
    """Return the values of each seed, by column, view and metric.

    Raises:
        ValueError: If the file is not what the evaluation writes.
    """
    try:
        return _posterior_columns(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"--posterior {path}: is not what `filtune report --evaluate` writes") from error


def _posterior_columns(content: Any) -> dict[str, Any]:
    """Return values of each seed, by column, view and metric.

    Raises:
        ValueError: If there is anything else.
    """
    columns: dict[str, Any] = content["columns"]
    for name, views in columns.items():
        for view, metrics in views.items():
            for metric, found in metrics.items():
                if not found["seeds"] or not all(NUMBER.accepts(value) for value in found["seeds"]):
                    raise ValueError(f"{name}, {view}, {metric}: its seeds are no numbers")
    return columns


def _view_title(view: str) -> str:
    """Return the name of a kind of probabilities, of earlier releases too."""
    return view.replace("moderated", "posterior predictive").replace("in full", "untempered")


def _posterior_cell(views: dict[str, Any], view: str, metric: str) -> tuple[str, bool]:
    """Return the text of a cell, and whether it is better than the softmax of either."""
    if metric not in views[view]:
        return DASH, False
    own = views[view][metric]["seeds"]
    found = summarise(own)
    assert found is not None
    digits = 3 if metric in ("nll", "brier") else 1
    text = f"{found.mean:.{digits}f}" + ("" if found.deviation is None else f" ± {found.deviation:.{digits}f}")
    plain = [other[metric]["seeds"] for name, other in views.items() if name.endswith("softmax") and name != view]
    return text, not view.endswith("softmax") and all(_better(own, it, metric) for it in plain)


def _better(own: list[float], other: list[float], metric: str) -> bool:
    test = paired(dict(enumerate(own)), dict(enumerate(other)))
    lower = metric in ("nll", "brier", "ece", "aurc")
    return test is not None and test.significant and (test.difference < 0) == lower
