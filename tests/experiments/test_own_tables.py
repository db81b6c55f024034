"""Users' tables of the same file name: none takes the results of another for its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filtune.experiments import launchers, reproduce
from filtune.experiments.archive import Archive
from filtune.experiments.cells import Scale
from filtune.experiments.composition import CONFIGS
from filtune.experiments.records import Store
from filtune.experiments.tables import Table, load_table

from tests.experiments.conftest import write_table

ANOTHER = "is of a sweep or another table; name another root"


def own_table(folder: Path, **changes: Any) -> Table:
    folder.mkdir(exist_ok=True)
    return load_table(write_table(folder, **changes))


def keep(root: Path, table: Table) -> None:
    """Keep a manifest of a table, as ``filtune reproduce`` does before the first run."""
    reproduce.keep_manifest(Store(root), table, Scale(), [], {}, {})


def test_a_second_table_of_one_file_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    monkeypatch.setattr(launchers, "run", lambda *_: pytest.fail("a run was made"))
    keep(root, own_table(tmp_path / "one"))
    before = (root / "manifests" / "digits.json").read_bytes()
    assert b'"file": "../one/digits.yaml"' in before
    other = own_table(tmp_path / "two", title="Another")
    with pytest.raises(ValueError, match=f"^--root {root}: its manifest digits {ANOTHER}$"):
        reproduce.main([str(other.file), "--root", str(root)])
    assert (root / "manifests" / "digits.json").read_bytes() == before
    archive = Archive([root], [other])
    assert not archive.pools
    assert "of another table digits, of the file ../one/digits.yaml: left out" in archive.left_out[0]


def test_a_table_that_was_moved_or_edited_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "root"
    keep(root, own_table(tmp_path / "one"))
    keep(root, own_table(tmp_path / "one", title="Edited"))
    shutil.move(tmp_path / "one", tmp_path / "two")
    keep(root, load_table(str(tmp_path / "two" / "digits.yaml")))
    assert (Store(root).read_manifest("digits") or {})["file"] == "../two/digits.yaml"
    shutil.move(tmp_path, f"{tmp_path}-elsewhere")  # the root as well
    keep(Path(f"{tmp_path}-elsewhere") / "root", load_table(f"{tmp_path}-elsewhere/two/digits.yaml"))


def test_two_tables_of_one_name_in_one_command_are_refused(tmp_path: Path) -> None:
    one, two = (str(own_table(tmp_path / name).file) for name in ("one", "two"))
    rest = ["--root", str(tmp_path / "root"), "--dry-run"]
    with pytest.raises(ValueError, match=r"^digits: .*one/digits.yaml and .*two/digits.yaml have one name; rename a"):
        reproduce.main([one, two, *rest])
    with pytest.raises(ValueError, match=r"^digits: .* have one name"):
        Archive([], [load_table(one), load_table(two)])
    assert reproduce.main([one, os.path.relpath(one), *rest]) == 0
    pair = [str(CONFIGS / "papers" / paper / "table2.yaml") for paper in ("loko", "grng")]
    with pytest.raises(ValueError, match=r"^table2: .*loko/table2.yaml and .*grng/table2.yaml have one name"):
        reproduce.main([*pair, *rest])


@pytest.mark.parametrize("own_first", [True, False])
def test_a_table_with_the_name_of_a_study_that_ships(tmp_path: Path, own_first: bool) -> None:
    own = load_table(str(shutil.copy(write_table(tmp_path), tmp_path / "win_stream.yaml")))
    shipped, root = load_table("win_stream"), tmp_path / "root"
    assert shipped.file is None
    assert load_table(str(CONFIGS / "studies" / "win_stream.yaml")).file is None
    first, second = (own, shipped) if own_first else (shipped, own)
    keep(root, first)
    with pytest.raises(ValueError, match=f"its manifest win_stream {ANOTHER}"):
        keep(root, second)
    archive = Archive([root], [own])
    assert [*archive.pools] == (["win_stream"] if own_first else [])
    assert len(archive.left_out) == (not own_first)
