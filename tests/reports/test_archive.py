"""What cannot be read is named and left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filtune.experiments.archive import Archive
from filtune.reports.cells import Status
from filtune.reports.document import assemble

from tests.reports.factory import key_of, manifest, own_table, record, runs


def test_a_half_written_record_is_named_and_its_seed_left_out(own: Path) -> None:
    made = runs("loko/a", [80.0, 81.0, 82.0])
    manifest(own, "own.table", {"loko/a": made})
    broken = own / "records" / f"{made[1]['key']}.json"
    broken.write_text(broken.read_text()[:100])
    document = assemble([own], [])
    (line,) = document.left_out
    assert line.startswith(f"{broken}: damaged or cut short, no JSON")
    assert line.endswith(": left out")
    assert list(document.sections[0].cells["loko", "a/online_accuracy"].values) == [0, 2]


def test_a_newer_format_is_named_and_left_out(own: Path) -> None:
    made = runs("loko/a", [80.0, 81.0])
    made[1]["format"] = 2
    manifest(own, "own.table", {"loko/a": made})
    document = assemble([own], [])
    assert "a record of format 2, this filtune reads 1" in document.left_out[0]
    assert len(document.records) == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 1}',
        '{"format": "x", "cells": {}, "seeds": []}',
        '{"format": 1, "cells": 5, "seeds": []}',
    ],
)
def test_what_is_no_manifest_is_named(own: Path, content: str) -> None:
    manifest(own, "own.table", {"loko/a": runs("loko/a", [80.0])})
    (own / "manifests" / "odd.json").write_text(content)
    archive = Archive([own])
    assert [words.split()[0].rstrip(":") for words in archive.left_out] == [str(own / "manifests" / "odd.json")]
    assert list(archive.pools) == ["own.table"]


def test_a_table_or_cell_that_is_no_more_is_named(own: Path) -> None:
    manifest(own, "own.table", {"loko/a": runs("loko/a", [80.0]), "gone/a": runs("gone/a", [1.0])})
    text = (own / "manifests" / "own.table.json").read_text()
    (own / "manifests" / "b.json").write_text(json.dumps({**json.loads(text), "table": "own.tabel"}))
    words = " ".join(Archive([own]).left_out)
    assert "did you mean own.table?" in words
    assert "no cells gone/a" in words


def test_a_table_of_ones_own_is_named_by_its_file(tmp_path: Path) -> None:
    file = own_table(tmp_path)
    manifest(tmp_path / "root", "table", {"loko/a": runs("loko/a", [80.0, 81.0])})
    (section,) = assemble([tmp_path / "root"], [str(file)]).sections
    assert section.cells["loko", "a/online_accuracy"].status is Status.REPRODUCED
    assert "--tables FILE" in Archive([tmp_path / "root"]).left_out[0]


def test_an_empty_folder_says_what_leaves_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no manifest and no run under .*filtune reproduce"):
        assemble([tmp_path], [])
    with pytest.raises(ValueError, match="no manifest and no run"):
        assemble([tmp_path / "nowhere"], [])


def test_unknown_table_suggests_a_near_one(own: Path) -> None:
    manifest(own, "own.table", {"loko/a": runs("loko/a", [80.0])})
    with pytest.raises(ValueError, match="did you mean own.table"):
        assemble([own], ["own.tables"])


def test_a_known_table_without_runs_says_what_there_is(tmp_path: Path) -> None:
    made = {"adamw/sst2": {0: record(key_of(1), 0, {"val_accuracy": 80.0})}}
    manifest(tmp_path, "grng.table2", made)
    with pytest.raises(ValueError, match=r"--tables loko.table1: no run of it .* there are grng.table2"):
        assemble([tmp_path], ["loko.table1"])


def test_roots_are_joined_seed_by_seed(own: Path) -> None:
    made = runs("loko/a", [80.0, 81.0, 82.0])
    manifest(own, "own.table", {"loko/a": {0: made[0]}})
    manifest(own.parent / "more", "own.table", {"loko/a": {1: made[1], 2: made[2]}})
    sections = assemble([own, own.parent / "more"], []).sections
    assert len(sections) == 1
    assert list(sections[0].cells["loko", "a/online_accuracy"].values) == [0, 1, 2]
