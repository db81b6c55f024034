"""A run says what was read of the data: a line when training starts, and the entry ``data`` of summary.json."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.harness import only_run, run


def test_a_line_and_an_entry(tmp_path: Path) -> None:
    options = ["--config", "trainer/cpu", "--config", "task/digits", "--config", "backbone/lenet5"]
    code, text = run(["fit", *options, "--config", "optimizer/sgd", "--data.max_samples=5"], tmp_path)
    assert code == 0, text
    assert text.count("data digits: 1797 rows, 5 used, none skipped; classification, 10 classes (0, 1, 2") == 1
    entry = json.loads((only_run(tmp_path) / "summary.json").read_text())["data"]
    assert entry["classes"] == list("0123456789")
    counts = {name: entry[name] for name in ("rows", "rows_used", "rows_skipped", "kind", "rows_held_out")}
    assert counts == {
        "rows": 1797,
        "rows_used": 5,
        "rows_skipped": {},
        "kind": "classification",
        "rows_held_out": 297,
    }
