"""``filtune report``: the command, sweeps, and folders of ``filtune fit``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from filtune.experiments.records import lower_is_better
from filtune.reports.cells import Status
from filtune.reports.document import assemble
from filtune.reports.report import main

from tests.reports.factory import key_of, manifest, record, runs
from tests.reports.test_compare import make_run
from tests.reports.test_render import check_page, check_tex


def test_the_command_says_what_it_wrote_and_left_out(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest(own, "own.table", {"loko/a": runs("loko/a", [80.0, 81.0, 82.0])})
    (own / "manifests" / "half.json").write_text("{")
    main([str(own), "--output", str(own.parent / "out")])
    said, warned = capsys.readouterr()
    assert "half.json: damaged" in warned
    for name in ("index.html", "own.table.md", "own.table.tex"):
        assert name in said
        assert (own.parent / "out" / name).is_file()
    for name in ("index.html", "own.table.md", "own.table.tex"):
        assert "half.json: damaged" in (own.parent / "out" / name).read_text()


def test_a_cell_run_at_two_scales_counts_once_as_published(own: Path) -> None:
    manifest(own, "own.table", {"loko/a": runs("loko/a", [80.0, 81.0, 79.0])})
    small = runs("loko/a small", [60.0, 61.0])
    manifest(own, "own.table", {"loko/a": small, "adamw/a": runs("adamw/a", [60.0])}, scale={"max_samples": 10})
    document = assemble([own], [])
    assert [section.slug for section in document.sections] == ["own.table", "own.table-10"]
    counts = document.counts()
    assert (counts[Status.REPRODUCED], counts[Status.SCALED], counts[Status.ABSENT]) == (1, 1, 2)
    assert document.facts()["runs"] == "6, seeds 0, 1, 2"


def test_a_sweep_is_sorted_by_its_metric(tmp_path: Path) -> None:
    made = {
        f"lr={lr}": {s: record(key_of(lr, s), s, {"val_accuracy": best - s, "val_loss": 1.0}) for s in range(2)}
        for lr, best in ((0.1, 70.0), (0.2, 90.0), (0.3, 80.0))
    }
    made["lr=0.4"] = {0: record(key_of("bad"), 0, {}, status="diverged")}
    manifest(tmp_path, None, made, sweep={"grid": {"optimizer.lr": [0.1, 0.2, 0.3, 0.4]}, "metric": "val_accuracy"})
    (listing,) = assemble([tmp_path], []).listings
    assert [entry.name for entry in listing.entries] == ["lr=0.2", "lr=0.3", "lr=0.1", "lr=0.4"]
    main([str(tmp_path), "--output", str(tmp_path / "out")])
    text = (tmp_path / "out" / "index.html").read_text()
    check_page(text)
    assert "diverged" in text
    check_tex((tmp_path / "out" / "sweep-sweep.tex").read_text())


def test_of_a_halved_sweep_the_longest_runs_come_first(tmp_path: Path) -> None:
    made = {
        f"lr=1, {n} samples": {0: record(key_of(n), 0, {"val_accuracy": score}, samples=n)}
        for n, score in ((100, 90.0), (300, 80.0))
    }
    manifest(tmp_path, None, made, sweep={"metric": "val_accuracy", "halving": 3})
    assert next(entry.name for entry in assemble([tmp_path], []).listings[0].entries) == "lr=1, 300 samples"


def test_runs_of_fit_are_grouped_by_all_that_shapes_them(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "runs" / f"a{seed}", lr=0.1, seed=seed)
    make_run(tmp_path / "runs" / "b", lr=0.2)
    make_run(tmp_path / "runs" / "c", "LoKO")
    make_run(tmp_path / "runs" / "d", finished=False)
    document = assemble([tmp_path / "runs"], [])
    (listing,) = document.listings
    assert {entry.name: len(entry.records) for entry in listing.entries} == {
        "AdamW lr=0.1": 2,
        "AdamW lr=0.2": 1,
        "LoKO": 1,
    }
    assert (listing.metric, lower_is_better("val_forgetting")) == ("val_accuracy", True)
    assert document.left_out == [f"{tmp_path / 'runs' / 'd'} is not finished: left out"]
    main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")])
    text = (tmp_path / "out" / "index.html").read_text()
    check_page(text)
    assert "<figure>" in text


def test_a_report_of_a_packed_study_is_that_of_its_root(own: Path, tmp_path: Path) -> None:
    made = {"loko/a": runs("loko/a", [80.0, 81.0]), "tuned/a/lr=0.1": runs("tuned/a", [79.0, 78.0])}
    manifest(own, "own.table", made)
    packed = tmp_path / "own.jsonl.xz"
    main([str(own), "--pack", str(packed)])
    pages = []
    for root, output in ((own, tmp_path / "of_root"), (packed, tmp_path / "of_packed")):
        main([str(root), "--output", str(output), "--formats", "md"])
        pages.append((output / "own.table.md").read_text())
    assert pages[1] == pages[0].replace(f" --root {own}", "")


def test_it_starts_without_torch() -> None:
    modules = ", ".join(f"filtune.reports.{name}" for name in ("report", "document", "study_page"))
    code = f"import sys; import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
