"""Tables of your own that have one name: none takes the results of another for its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from filtune.experiments import launchers, reproduce
from filtune.experiments.archive import Archive
from filtune.experiments.composition import CONFIGS
from filtune.experiments.tables import load_table

from tests.experiments.conftest import write_table


def no_run(*_: object) -> None:
    pytest.fail("a run was made")


def test_a_second_table_of_one_file_name_is_refused(copied, monkeypatch) -> None:
    table, root = copied
    monkeypatch.setattr(launchers, "run", no_run)
    assert reproduce.main([table, "--root", str(root)]) == 0
    before = (root / "manifests" / "digits.json").read_bytes()
    assert json.loads(before)["file"] == os.path.relpath(table, root)
    (root.parent / "other").mkdir()
    other = write_table(root.parent / "other", title="Another")
    with pytest.raises(ValueError, match="its manifest digits is of a sweep or another table; name another root"):
        reproduce.main([other, "--root", str(root)])
    assert (root / "manifests" / "digits.json").read_bytes() == before


def test_a_table_that_was_moved_or_edited_goes_on(copied, monkeypatch) -> None:
    _, root = copied
    monkeypatch.setattr(launchers, "run", no_run)
    for folder in ("first", "second"):
        (root.parent / folder).mkdir()
        moved = write_table(root.parent / folder, title=folder)
        assert reproduce.main([moved, "--root", str(root)]) == 0
        Path(moved).unlink()
    assert json.loads((root / "manifests" / "digits.json").read_text())["file"] == "../second/digits.yaml"


def test_two_tables_of_one_name_in_one_command_are_refused(copied) -> None:
    table, root = copied
    (root.parent / "other").mkdir()
    other = write_table(root.parent / "other")
    with pytest.raises(ValueError, match=r"digits: .*digits.yaml and .*other/digits.yaml have one name; rename a file"):
        reproduce.main([table, other, "--root", str(root), "--dry-run"])
    assert reproduce.main([table, os.path.relpath(table), "--root", str(root), "--dry-run"]) == 0
    pair = [str(CONFIGS / "papers" / paper / "table2.yaml") for paper in ("loko", "grng")]
    with pytest.raises(ValueError, match="table2: .*loko/table2.yaml and .*grng/table2.yaml have one name"):
        reproduce.main([*pair, "--root", str(root), "--dry-run"])


@pytest.mark.parametrize("own_first", [True, False])
def test_a_table_with_the_name_of_a_study_that_ships(tmp_path, own_first: bool, monkeypatch) -> None:
    shutil.copy(write_table(tmp_path), tmp_path / "win_stream.yaml")
    own = load_table(str(tmp_path / "win_stream.yaml"))
    shipped = load_table("win_stream")
    assert shipped.file is None
    assert load_table(str(CONFIGS / "studies" / "win_stream.yaml")).file is None
    first, second = (own, shipped) if own_first else (shipped, own)
    store = reproduce.Store(tmp_path / "root")
    reproduce.keep_manifest(store, first, reproduce.Scale(), [], {}, {})
    with pytest.raises(ValueError, match="its manifest win_stream is of a sweep or another table"):
        reproduce.keep_manifest(store, second, reproduce.Scale(), [], {}, {})
    archive = Archive([tmp_path / "root"], [own])
    assert [*archive.pools] == (["win_stream"] if own_first else [])
    assert len(archive.left_out) == (not own_first)
