"""Records: written once, found by today's key whatever they are named, packed into one file and read from it."""

from __future__ import annotations

import copy
import json
import lzma
from pathlib import Path

import pytest
from filtune.experiments import launchers, reproduce
from filtune.experiments.archive import Archive
from filtune.experiments.cells import cells
from filtune.experiments.composition import CONFIGS
from filtune.experiments.keys import complete, record_key, run_key
from filtune.experiments.records import Store, metric_of, pack, unpack
from filtune.experiments.tables import load_table

from tests.experiments.test_keys import build, config_of
from tests.reports.factory import manifest, record, runs

pytestmark = pytest.mark.usefixtures("forked")

RESULTS = CONFIGS.parent / "docs" / "results"


def make_older(root: Path, table: str) -> dict[str, bytes]:
    """Give the records of a root names and options of an earlier release; their content by path."""
    for path in sorted((root / "records").glob("*.json")):
        content = json.loads(path.read_text())
        del content["checksum"]
        content["key"] = path.stem.removeprefix("v2-")
        optimizer = content["config"]["optimizer"]
        optimizer["class_path"] = optimizer["class_path"].replace("filtune.", "optimizers.")
        content["metrics"]["online_moderated_nll"] = 0.5
        path.unlink()
        (root / "records" / f"{content['key']}.json").write_text(json.dumps(content))
    (root / "manifests" / f"{Path(table).stem}.json").unlink()
    return {str(path): path.read_bytes() for path in (root / "records").iterdir()}


def test_records_of_earlier_releases_are_found_and_left_as_they_are(copied, monkeypatch, capsys) -> None:
    table, root = copied
    before = make_older(root, table)
    monkeypatch.setattr(launchers, "run", lambda *_: pytest.fail("a run was made"))
    assert reproduce.main([table, "--root", str(root)]) == 0
    assert "3 runs, 3 of them made before" in capsys.readouterr().out
    assert {str(path): path.read_bytes() for path in (root / "records").iterdir()} == before
    (cell,) = [cell for cell in cells(load_table(table)) if cell.name == "loko/digits"]
    found = Store(root).read(cell.key(0))
    assert found is not None
    assert found["key"] == cell.key(0).removeprefix("v2-")
    assert found["config"]["optimizer"]["class_path"] == "filtune.LoKO"
    assert found["metrics"]["online_predictive_nll"] == metric_of(found, "online_moderated_nll") == 0.5
    archive = Archive([root], [load_table(table)])  # which reads names, and needs no keys
    assert len(archive.records(archive.pools["digits"]["{}"].cells["loko/digits"])) == 1


def test_a_root_goes_on_from_a_packed_study(copied, monkeypatch, capsys, tmp_path) -> None:
    table, root = copied
    pack([root], tmp_path / "new" / "digits.jsonl.xz")
    monkeypatch.setattr(launchers, "run", lambda *_: pytest.fail("a run was made"))
    assert reproduce.main([table, "--root", str(tmp_path / "new")]) == 0
    assert "3 runs, 3 of them made before" in capsys.readouterr().out


def test_a_record_is_not_that_of_a_run_with_another_default(tmp_path: Path) -> None:
    config = config_of(build({"p0": 0.1, "parts": None}), {})
    config["data"]["init_args"]["parts"] = [copy.deepcopy(config["data"])]
    store, key = Store(tmp_path), run_key(config, 0)
    old = record(key, 0, {}, config=complete(config))
    assert [part["init_args"]["p0"] for part in old["config"]["data"]["init_args"]["parts"]] == [0.1]
    store.write(old)
    (store.runs(key) / "attempt").mkdir(parents=True)
    assert store.read(key) == old
    path = store.path(key)
    written = path.read_bytes()

    build({"p0": 0.7, "parts": None})
    assert run_key(config, 0) == key
    assert Store(tmp_path).read(key) is None
    was = run_key(old["config"], 0)
    assert was != key
    assert Store(tmp_path).read(was) == old
    assert not list(store.runs(key).glob("*"))
    store.write(record(key, 0, {}, config=complete(config)))
    assert path.read_bytes() == written
    assert Store(tmp_path).read(was) == old
    assert store.read(key)["config"]["data"]["init_args"]["p0"] == 0.7


def test_a_cell_is_run_again_after_a_default_has_changed(copied, capsys) -> None:
    table, root = copied
    (cell,) = [cell for cell in cells(load_table(table)) if cell.name == "loko/digits"]
    store = Store(root)
    old = store.read(cell.key(0))
    old["config"]["optimizer"]["init_args"]["p0"] = 0.7  # as if that had been the default then
    store.write(old)
    assert reproduce.main([table, "--root", str(root), "--threads", "1"]) == 0
    assert "3 runs, 2 of them made before" in capsys.readouterr().out
    was = run_key(old["config"], 0)
    assert Store(root).read(was)["config"] == old["config"]
    assert store.runs(cell.key(0)) == root / "runs" / f"{cell.key(0)}~2"
    assert (root / "runs" / cell.key(0)).is_dir()
    assert store.read(cell.key(0))["config"]["optimizer"]["init_args"]["p0"] != 0.7
    assert any(store.runs(cell.key(0)).rglob("summary.json"))
    for kept in (root, root.parent / "p.jsonl.xz"):  # manifests name the new record, not the old one of its key
        if kept.suffix:
            pack([root], kept)
        archive = Archive([kept], [load_table(table)])
        names = archive.pools["digits"]["{}"].cells["loko/digits"]
        assert names == {0: f"{cell.key(0)}~2"}
        assert archive.records(names)[0]["config"] == store.read(cell.key(0))["config"]
    assert Store(root).kept_as(was) == cell.key(0)


def test_a_record_in_todays_names_is_found_by_its_name(copied) -> None:
    table, root = copied
    (cell,) = [cell for cell in cells(load_table(table)) if cell.name == "loko/digits"]
    found = Store(root).read(cell.key(0))
    assert found["config"]["optimizer"]["init_args"]["p0_init"]
    assert found["config"]["trainer"]["max_epochs"] == 1
    assert found["key"] == cell.key(0) == run_key(found["config"], 0)


def test_a_packed_study_has_all_that_the_root_had(tmp_path: Path) -> None:
    made = {cell: runs(cell, [80.0, 81.5]) for cell in ("b/x", "a/x/lr=0.1", "a/x/lr=0.2")}
    manifest(tmp_path, "study", made, missing={"a/y": "weights z: gated"})
    manifest(tmp_path, None, {"": made["b/x"], "lr=0.1, 300 samples": made["a/x/lr=0.1"]}, sweep={"metric": "val_loss"})
    target = tmp_path / "study.jsonl.xz"
    assert pack([tmp_path], target) == 6
    manifests, records = unpack(target)
    for name, found in manifests.items():
        written = json.loads((tmp_path / "manifests" / f"{name}.json").read_text())
        assert found == written
        assert list(found["cells"]) == list(written["cells"])
    for found in records:
        places = found.pop("cells")
        assert places
        assert found == json.loads((tmp_path / "records" / f"{found['key']}.json").read_text())
    assert pack([target], tmp_path / "again.jsonl.xz") == 6
    assert unpack(tmp_path / "again.jsonl.xz")[0] == manifests
    with lzma.open(target, "rt") as file:
        assert len(file.readlines()) == 7


def test_what_cannot_be_packed_or_unpacked_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--pack study.zip: the name is to end in .jsonl.xz$"):
        pack([tmp_path], Path("study.zip"))
    with pytest.raises(ValueError, match=r"^--pack: no record under"):
        pack([tmp_path], tmp_path / "s.jsonl.xz")
    (tmp_path / "s.jsonl.xz").write_text("nothing")
    with pytest.raises(ValueError, match=r"^.*s.jsonl.xz: not a packed study, or damaged$"):
        unpack(tmp_path / "s.jsonl.xz")
    with lzma.open(tmp_path / "s.jsonl.xz", "wt") as file:
        file.write('{"format": 9, "manifests": {}}\n')
    with pytest.raises(ValueError, match=r"a study of format 9, this filtune reads 1; update filtune$"):
        unpack(tmp_path / "s.jsonl.xz")
    assert "not a packed study" not in Archive([tmp_path / "s.jsonl.xz"]).left_out[0]
    manifest(tmp_path, "study", {"a/x": {0: record("k", 0, {})}})
    (tmp_path / "records" / "k.json").write_text("{")
    with pytest.raises(ValueError, match=r"^--pack: .*k.json cannot be read; delete it, or repeat its run$"):
        pack([tmp_path], tmp_path / "t.jsonl.xz")


@pytest.mark.skipif(not RESULTS.is_dir(), reason="the records are not installed")
@pytest.mark.parametrize(("name", "count"), [("win", 612), ("papers", 297)])
def test_the_records_of_past_studies_are_those_of_todays_cells(name: str, count: int) -> None:
    manifests, records = unpack(RESULTS / f"{name}.jsonl.xz")
    assert len(records) == count
    assert all(found["commit_verified"] for found in records)
    if name == "papers":
        return
    todays = {found["key"]: record_key(found) for found in records}
    assert len(set(todays.values())) == count
    for study, found in manifests.items():
        named = {cell.name: cell for cell in cells(load_table(study))}
        assert set(found["cells"]) <= set(named)
        for cell, keys in found["cells"].items():
            assert all(todays[key] == named[cell].key(int(seed)) for seed, key in keys.items())
