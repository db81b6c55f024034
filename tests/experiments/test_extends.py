"""A table or study that extends another: one schema, its fields over those of the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from filtune.experiments.cells import cells
from filtune.experiments.tables import load_table


def write(path: Path, **fields: object) -> str:
    path.write_text(yaml.safe_dump(fields))
    return str(path)


def test_the_stationary_streams_are_those_of_the_first_study() -> None:
    """Columns and options are shared, so that a run of both has one record."""
    steady, stream = load_table("win_steady"), load_table("win_stream")
    assert steady.columns == stream.columns
    assert steady.set == stream.set
    assert [row.name for row in steady.rows] == ["filtune-renews", "filtune"]
    keys = {cell.name: cell.key(0) for cell in cells(stream)}
    shared = [cell for cell in cells(steady) if cell.name.startswith("filtune/")]
    assert {cell.name: cell.key(0) for cell in shared} == {cell.name: keys[cell.name] for cell in shared}


def test_a_file_extends_one_beside_it(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", extends="win_stream", title="First")
    second = write(tmp_path / "second.yaml", extends="first.yaml", title="Second", seeds=[7], tuning_seeds=[])
    assert load_table(first).seeds == load_table("win_stream").seeds
    assert (load_table(second).title, load_table(second).seeds) == ("Second", [7])
    assert load_table(second).columns == load_table("win_stream").columns


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("own.yaml", r"own\.yaml: not the description of a table: it is over itself, or extends itself"),
        ("win_streams", r"own\.yaml: extends: no table or figure 'win_streams'; did you mean win_stream"),
        ("other.yaml", r"own\.yaml: extends: no table or figure"),
        (7, r"own\.yaml: extends is 7, not the name of a table or study"),
        ("", r"own\.yaml: extends is '', not the name"),
        ("\0", r"own\.yaml: extends: no table or figure"),
    ],
)
def test_what_cannot_be_extended_is_reported(base: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        load_table(write(tmp_path / "own.yaml", extends=base))
