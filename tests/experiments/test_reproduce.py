"""``filtune reproduce``: what it keeps, what it runs again, and what it says where it cannot."""

import errno
import json
import multiprocessing

import pytest
from filtune.experiments import launchers, reproduce
from filtune.experiments.cells import cells
from filtune.experiments.records import Store
from filtune.experiments.tables import load_table
from filtune.lightning_modules.locks import FolderLock

from tests.experiments.conftest import write_table

pytestmark = pytest.mark.usefixtures("forked")


def keys(table: str) -> dict[str, str]:
    return {cell.name: cell.key(0) for cell in cells(load_table(table))}


def test_a_record_has_all_that_is_to_be_known_of_a_run(finished):
    table, root = finished
    record = Store(root).read(keys(table)["loko/digits"])
    assert record["status"] == "finished"
    assert (record["seed"], record["task"], record["backbone"], record["optimizer"]) == (0, "digits", "lenet5", "LoKO")
    assert (record["samples"], record["steps"], record["train_rows"], record["val_rows"]) == (48, 48, 1797, 20)
    assert record["config"]["optimizer"]["class_path"] == "filtune.LoKO"
    assert {"online_accuracy", "online_loss", "val_accuracy", "val_loss"} <= set(record["metrics"])
    assert {"online/accuracy", "online/loss", "online/l1", "val/accuracy"} <= set(record["curves"])
    steps, values = record["curves"]["online/accuracy"]
    assert steps == [8, 16, 24, 32, 40, 48]
    assert values[-1] == pytest.approx(record["metrics"]["online_accuracy"], rel=1e-4)  # five digits are kept
    assert record["trainable_parameters"] == record["total_parameters"] == 61706
    assert all(record["times"][name] > 0 for name in ("wall_seconds", "seconds_per_step", "mean_seconds_per_step"))
    assert record["peak_memory_bytes"] > 1e6
    assert record["environment"]["threads"] == 1
    assert record["environment"]["versions"]["torch"]


def test_the_manifest_says_which_records_belong_to_which_cells(finished):
    table, root = finished
    manifest = json.loads((root / "manifests" / "digits.json").read_text())
    assert manifest["table"] == "digits"
    assert manifest["scale"] == {}
    assert {name: found["0"] for name, found in manifest["cells"].items()} == keys(table)
    assert set(keys(table)) == {"loko/digits", "tuned/digits/lr=0.001", "tuned/digits/lr=0.01"}


def test_what_is_done_is_not_done_again(copied, monkeypatch, capsys):
    table, root = copied
    monkeypatch.setattr(launchers, "run", lambda *_: pytest.fail("a run was made"))
    assert reproduce.main([table, "--root", str(root)]) == 0
    assert "3 runs, 3 of them made before" in capsys.readouterr().out


def test_a_half_written_record_is_made_again_and_it_is_said(copied, capsys):
    table, root = copied
    path = Store(root).path(keys(table)["loko/digits"])
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert reproduce.main([table, "--root", str(root), "--cells", "loko", "--threads", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{path} is half written: its run is made again" in said
    again, before = json.loads(path.read_text()), json.loads(whole)
    for record in (again, before):
        del record["times"], record["checksum"]  # of the times as well
    assert again == before


def test_a_dry_run_shows_the_plan_and_runs_nothing(copied, monkeypatch, capsys):
    table, root = copied
    monkeypatch.setattr(launchers, "run", lambda *_: pytest.fail("a run was made"))
    monkeypatch.setenv("COLUMNS", "200")
    assert reproduce.main([table, "--root", str(root), "--seeds", "2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "tuned/digits/lr=0.001" in said
    assert "none needed" in said
    assert "with 1 at a time" in said


MEASURED = {
    "metric": "measured_error",
    "set": {
        "measurement.class_path": "filtune.experiments.measurements.TwoLayerFit",
        "measurement.width": 8,
        "measurement.steps": 2,
        "data.max_samples": 6,
    },
    "columns": [
        {"name": "error", "title": "Error", "task": "digits"},
        {
            "name": "seconds",
            "title": "Seconds",
            "task": "digits",
            "metric": "wall_seconds",
            "chosen_by": "measured_error",
        },
    ],
    "rows": [{"name": "adamw", "title": "AdamW", "optimizer": "adamw_1e-3", "grid": {"optimizer.lr": [1e-3, 1e-2]}}],
}


def test_a_measurement_is_run_kept_and_skipped_like_a_run(tmp_path, capsys, monkeypatch):
    table, root = write_table(tmp_path, **MEASURED), tmp_path / "root"
    monkeypatch.setenv("COLUMNS", "200")
    assert reproduce.main([table, "--root", str(root), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 of 2 runs of 4 cells to be made: about ")  # both columns show the same runs
    assert "2 runs of unknown time" in said
    assert reproduce.main([table, "--root", str(root), "--threads", "1"]) == 0
    assert "2 runs, 0 of them made before" in capsys.readouterr().out
    record = Store(root).read(keys(table)["adamw/error/lr=0.01"])
    assert (record["optimizer"], record["backbone"], record["samples"]) == ("AdamW", "", 6)
    steps, errors = record["curves"]["measured/error"]
    assert steps == [0, 1, 2]
    assert record["metrics"]["measured_error"] == pytest.approx(errors[-1], rel=1e-4)
    assert record["data_fingerprint"]["rows"]
    monkeypatch.setattr(launchers, "run", lambda *_: pytest.fail("a run was made"))
    assert reproduce.main([table, "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "2 runs, 2 of them made before" in said
    assert "earlier release" not in said
    assert said.splitlines()[-1] == f"see  filtune report {root} --tables {table}"  # a user's file is named


def test_a_measurement_that_fails_is_named(tmp_path, capsys):
    table = write_table(tmp_path, **MEASURED)
    line = [table, "--root", str(tmp_path / "root"), "--threads", "1", "--set", "measurement.steps=0"]
    assert reproduce.main([*line, "--cells", "adamw/error/lr=0.01"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "adamw/error/lr=0.01 seed 0: measurement: TwoLayerFit: width and steps must be at least 1" in said


def test_what_cannot_be_had_is_said_and_the_rest_is_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    columns = [
        {"name": "digits", "title": "Digits", "task": "digits", "backbone": "lenet5"},
        {"name": "lost", "title": "Lost", "task": "sst2", "backbone": "minilm", "set": {"data.source": "/not/there"}},
    ]
    rows = [{"name": "adamw", "title": "AdamW", "optimizer": "adamw"}]
    table = write_table(tmp_path, columns=columns, rows=rows)
    assert reproduce.main([table, "--root", str(tmp_path / "root")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "adamw/lost left out: data /not/there: there is no folder /not/there" in said
    assert "1 run, 0 of them made before; 1 cell left out" in said
    manifest = json.loads((tmp_path / "root" / "manifests" / "digits.json").read_text())
    assert manifest["missing"] == {"adamw/lost": "data /not/there: there is no folder /not/there"}


def test_a_run_that_diverges_is_a_result(tmp_path, capsys):
    rows = [{"name": "wild", "title": "Wild", "optimizer": "sgd", "set": {"optimizer.lr": 1e30}}]
    table = write_table(tmp_path, rows=rows)
    assert reproduce.main([table, "--root", str(tmp_path / "root")]) == 0
    record = Store(tmp_path / "root").read(keys(table)["wild/digits"])
    assert record["status"] == "diverged"
    assert "step" in record["reason"]
    assert record["metrics"] == {}
    assert "1 diverged" in capsys.readouterr().out


def test_a_run_that_fails_is_named_and_not_kept(tmp_path, capsys):
    rows = [{"name": "wrong", "title": "Wrong", "optimizer": "loko", "set": {"optimizer.p0": -1.0}}]
    table = write_table(tmp_path, rows=rows)
    assert reproduce.main([table, "--root", str(tmp_path / "root")]) == 1
    assert "p0" in capsys.readouterr().out
    assert Store(tmp_path / "root").read(keys(table)["wrong/digits"]) is None


def _hold(root, ready, done):
    with Store(root).lock():
        ready.set()
        done.wait(60)


def test_two_commands_into_one_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(FolderLock.acquire, "__defaults__", (0.1,))  # seconds to wait
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, done))
    other.start()
    assert ready.wait(60)
    try:
        with pytest.raises(ValueError, match=rf"another command \(process {other.pid} on .*\) writes into this folder"):
            reproduce.main([write_table(tmp_path), "--root", str(tmp_path)])
    finally:
        done.set()
        other.join()
    with Store(tmp_path).lock():
        pass


def test_a_full_disk_stops_cleanly(copied, monkeypatch):
    table, root = copied
    before = {path: path.read_bytes() for path in (root / "records").iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(launchers, "run", full)
    with pytest.raises(OSError, match=r"the disk is full .*nothing that was finished is lost"):
        reproduce.main([table, "--root", str(root), "--seeds", "2"])
    assert {path: path.read_bytes() for path in (root / "records").iterdir()} == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["loko.tabel2"], "no table or figure 'loko.tabel2'; did you mean"),
        (["loko.table2", "--set", "data.seed"], "--set data.seed: is to be KEY=VALUE"),
        (["loko.table2", "--local", "nyu-mll/glue"], "is to be ID=FOLDER"),
        (["loko.table2", "--local", "nyu-mll/glue=/not/there"], "there is no folder /not/there"),
        (["loko.table2", "--jobs", "0"], "--jobs 0: must be at least 1"),
        (["loko.table2", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["loko.table2", "--max-samples", "0"], "--max-samples 0: must be at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line(line, said, tmp_path):
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        reproduce.main([*line, "--root", str(tmp_path)])
    assert said in str(error.value)


def test_without_a_table_it_lists_what_there_is(capsys):
    assert reproduce.main([]) == 0
    assert "loko.table2" in capsys.readouterr().out
