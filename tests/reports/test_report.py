"""``filtune report``: the command, sweeps, and folders of ``filtune fit``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from filtune.experiments.records import lower_is_better
from filtune.reports import figures
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
    (listing,) = assemble([tmp_path], []).listings
    assert listing.entries[0].name == "lr=1, 300 samples"
    assert listing.answer() == "lr=1, 300 samples: validation accuracy (%) 80.00 (1 seed)."


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


def test_it_starts_without_what_only_a_report_needs() -> None:
    names = ("report", "document", "rendering", "panels", "study_page")
    modules = ", ".join(f"filtune.reports.{name}" for name in names)
    heavy = "{'torch', 'pandas', 'scipy', 'matplotlib'}"
    code = f"import sys; import {modules}\nsys.exit(' '.join(sys.modules.keys() & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert not done.stderr.strip()


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save_figure", lambda *_: "<svg></svg>")


@pytest.mark.usefixtures("_undrawn")
def test_after_three_cells_the_page_shows_what_was_run(tmp_path: Path) -> None:
    """Own runs come first; of the paper's table the cells that were run; its table of times is folded."""
    cells = ("loko/mrpc-base", "adamw/mrpc-base", "loko/sst2-base")
    scale = {"max_samples": 100, "backbone": "minilm"}
    manifest(tmp_path / "store", "loko.table2", {cell: runs(cell, [80.0, 81.0]) for cell in cells}, scale=scale)
    make_run(tmp_path / "own" / "a", lr=0.1)
    main([str(tmp_path / "store"), str(tmp_path / "own"), "--output", str(tmp_path / "out"), "--formats", "html"])
    page = (tmp_path / "out" / "index.html").read_text()
    check_page(page)
    own, table, times = (page.index(f'<section id="{name}') for name in ("runs-", "loko.table2", "loko.table3"))
    assert own < table < times
    assert "not attempted</div>" not in page
    assert "3 of the 36 figures that the papers print in these tables were attempted" in page
    assert re.search("<details><summary>[^<]*: other figures of the same runs", page[times:])
    assert "DoRA" not in page[table:times].partition("Not attempted: ")[0]
    assert "CoLA, RoBERTa-base" in page[table:times].partition("Not attempted: ")[2]


def test_a_derived_table_that_is_asked_for_is_not_folded(tmp_path: Path) -> None:
    manifest(tmp_path, "loko.table2", {"loko/mrpc-base": runs("loko/mrpc-base", [80.0])})
    document = assemble([tmp_path], ["loko.table3"])
    assert document.first_sections == document.sections
    assert document.counts()[Status.ABSENT] > 0


@pytest.mark.usefixtures("_undrawn")
def test_a_page_does_not_speak_of_what_is_not_there(tmp_path: Path) -> None:
    """Of bands with a single seed, of duplicates where there are none; and of both where they are."""
    make_run(tmp_path / "one" / "a", lr=0.1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_run(tmp_path / "several" / name, lr=0.1, seed=seed)
    pages = []
    for name in ("one", "several"):
        main([str(tmp_path / name), "--output", str(tmp_path / name / "out"), "--formats", "html"])
        pages.append((tmp_path / name / "out" / "index.html").read_text())
    for words in ("the band is one standard deviation", "1 of them repeats another"):
        assert [words in page for page in pages] == [False, True]
    assert "Next is" not in pages[0]


@pytest.mark.parametrize(
    ("values", "others", "words"),
    [
        ([80.0, 81.0, 82.0], [70.0, 71.0, 72.5], "difference of +9.83 (paired by seed, p < 0.001)."),
        (
            [80.0, 81.0, 82.0],
            [79.0, 82.0, 79.0],
            "difference of +1.00 (paired by seed, p = 0.48), which may be chance.",
        ),
        ([80.0], [70.0, 71.0], "70.50 ± 0.71 (2 seeds), a difference of +9.50 (too few common seeds for a test)."),
    ],
)
def test_the_answer_names_the_best_and_its_distance(
    tmp_path: Path, values: list[float], others: list[float], words: str
) -> None:
    made = {"lr=1": runs("a", values, "val_accuracy"), "lr=2": runs("b", others, "val_accuracy")}
    manifest(tmp_path, None, made, sweep={"metric": "val_accuracy"})
    (listing,) = assemble([tmp_path], []).listings
    assert listing.answer().startswith("lr=1 has the best validation accuracy (%): 8")
    assert listing.answer().endswith(words)


def test_a_tie_has_no_winner(tmp_path: Path) -> None:
    made = {f"lr={i}": runs(str(i), [80.0], "val_accuracy") for i in (1, 2)}
    manifest(tmp_path, None, made, sweep={"metric": "val_accuracy"})
    (listing,) = assemble([tmp_path], []).listings
    assert listing.answer() == "lr=1 and lr=2 have the same validation accuracy (%): 80.00."


def test_a_point_of_a_sweep_names_its_learning_rate(tmp_path: Path) -> None:
    config = {"optimizer": {"class_path": "filtune.AdamW", "init_args": {"lr": 0.01}}}
    made = {name: runs(name, [80.0], config=config) for name in ("weight_decay=0", "lr=0.01")}
    manifest(tmp_path, None, made, sweep={"metric": "online_accuracy"})
    names = {entry.name for entry in assemble([tmp_path], []).listings[0].entries}
    assert names == {"weight_decay=0, lr=0.01", "lr=0.01"}
