"""A small study with its records, and the page of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from filtune.experiments.archive import Archive
from filtune.experiments.tables import load_table
from filtune.reports import figures, report
from filtune.reports.study import StreamResult, compare_streams

from tests.reports.factory import manifest, runs

STUDY: dict[str, Any] = {
    "title": "A study",
    "kind": "table",
    "metric": "online_accuracy",
    "seeds": [0, 1, 2],
    "comparison": {
        "method": "ours",
        "baselines": {"AdamW": ["adamw", "adamw-decay"], "AdaGrad": ["adagrad"]},
        "reserved": {"seeds": [2], "columns": ["b"]},
    },
    "columns": [{"name": n, "title": f"Stream {n}", "task": "digits", "backbone": "lenet5"} for n in ("a", "b")],
    "rows": [
        {"name": "ours", "title": "Ours", "optimizer": "filtune"},
        {"name": "adamw", "title": "AdamW", "optimizer": "adamw", "grid": {"optimizer.lr": [0.001, 0.01]}},
        {"name": "adamw-decay", "title": "AdamW with decay", "optimizer": "adamw", "grid": {"optimizer.lr": [0.001]}},
        {"name": "adagrad", "title": "AdaGrad", "optimizer": "adagrad"},
    ],
}
VALUES = {
    "ours/a": [80.0, 81.0, 85.0],
    "adamw/a/lr=0.001": [78.0, 80.0, 79.0],
    "adamw/a/lr=0.01": [70.0, 60.0, 90.0],
    "adamw-decay/a/lr=0.001": [99.0],  # best, but of fewer seeds
    "adagrad/a": [81.0, 82.0, 83.0],
    "ours/b": [60.0, 61.0],
    "adamw/b/lr=0.001": [59.0, 59.5],
}


def page(study: Path, content: dict[str, Any] | None = None, draw: bool = False, **comparison: Any) -> str:
    """The page of the study with other content, or other options of its comparison."""
    content = content or {**STUDY, "comparison": {**STUDY["comparison"], **comparison}}
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    output = study.parent / "win.md"
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(figures, "save_figure", lambda *_: "<svg></svg>")
        report.main(["--study", str(study), "--root", str(study.parent), "--output", str(output)])
    return output.read_text()


def compared_on(study: Path, metric: str, values: dict[str, list[float]]) -> tuple[dict[str, Any], StreamResult]:
    """The study on its first stream alone in another metric, and what it finds there."""
    raw = {**STUDY, "metric": metric, "columns": STUDY["columns"][:1]}
    study.write_text(yaml.safe_dump(raw, sort_keys=False))
    manifest(study.parent, "study", {cell: runs(cell, found, metric) for cell, found in values.items()})
    table = load_table(str(study))
    (stream,) = compare_streams(table, Archive([study.parent], [table]))
    return raw, stream
