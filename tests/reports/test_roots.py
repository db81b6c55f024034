"""What a folder stands for in ``filtune report``: all studies, sweeps and runs below it, each once."""

from __future__ import annotations

from pathlib import Path

import pytest
from filtune.experiments.archive import find_roots
from filtune.reports.document import assemble
from filtune.reports.report import main

from tests.reports.factory import manifest, runs
from tests.reports.test_compare import make_run


@pytest.fixture
def everything(own: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``runs`` with a study, a sweep and a run of ``filtune fit``, as the commands leave them."""
    home = own.parent / "runs"
    manifest(home / "reproduce", "own.table", {"loko/a": runs("loko/a", [80.0, 81.0])})
    (home / "reproduce" / "runs" / "k").mkdir(parents=True)
    make_run(home / "reproduce" / "runs" / "k" / "version_0", "LoKO")
    manifest(home / "sweep", None, {"lr=1": runs("lr=1", [60.0])}, sweep={"grid": {"optimizer.lr": [1]}})
    make_run(home / "digits-lenet5" / "SGD-seed0" / "version_0", "SGD")
    monkeypatch.chdir(own.parent)
    return home


def test_a_folder_stands_for_all_that_is_below_it(everything: Path) -> None:
    document = assemble([everything], [])
    assert [section.slug for section in document.sections] == ["own.table"]
    assert [listing.slug.partition("-")[0] for listing in document.listings] == ["sweep", "runs"]
    assert document.listings[1].note.startswith("1 run of filtune fit")  # that of the study is in its table
    assert not document.left_out


def test_each_root_counts_once_however_often_it_is_named(everything: Path) -> None:
    store = everything / "reproduce"
    assert find_roots([store, everything, store]) == [store, everything / "sweep", everything]
    assert len(assemble([store, everything], []).records) == len(assemble([everything], []).records)


@pytest.mark.usefixtures("everything")
def test_without_arguments_it_reports_and_packs_all_of_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert {"index.html", "own.table.md"} <= {
        Path(line.split()[-1]).name for line in capsys.readouterr().out.split("\n") if line
    }
    main(["--pack", "all.jsonl.xz"])
    assert "3 records" in capsys.readouterr().out


def test_a_folder_without_anything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="report: no manifest and no run under runs"):
        main([])
