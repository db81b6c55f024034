"""Finished runs of a study are kept only where the data is still what they have learned from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filtune.experiments import launchers, runs, streams, sweep
from filtune.experiments.records import Store, write_json
from filtune.experiments.runs import Job, RunError
from filtune.experiments.streams import Streams, read_stream

from tests.cli.harness import forked_workers, run
from tests.cli.test_changed import CHANGES, ROWS, swapped, write

ONE_LINE = "^[^\n]*$"


def line(folder: Path, *more: str) -> list[str]:
    return [
        "--config=trainer/cpu", "--config=task/own_text", "--config=backbone/minilm", "--config=optimizer/adamw_1e-3",
        "--grid=optimizer.lr=1e-3,1e-2", f"--root={folder / 'root'}", "--threads=1",
        f"--data.source={folder / 'reviews.csv'}", "--data.val_fraction=0.2", "--run.save_interval=8",
        f"--model.backbone.name={folder / 'encoder'}", "--trainer.log_every_n_steps=8", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A sweep of two points that is complete."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(tiny_bert, folder / "encoder")
    write(folder / "reviews.csv", ROWS)
    with forked_workers():
        assert sweep.main(line(folder)) == 0
    return folder


@pytest.fixture
def again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The finished sweep, in which no run may be made; its data is restored afterwards."""
    monkeypatch.setattr(launchers, "run", lambda *_: pytest.fail("a run was made"))
    yield finished
    write(finished / "reviews.csv", ROWS)


def test_runs_of_equal_data_and_seed_share_a_stream_that_is_read_once(
    again: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = []
    monkeypatch.setattr(streams, "read_stream", lambda data, seed: read.append(seed) or read_stream(data, seed))
    assert sweep.main(line(again)) == 0
    assert read == [0]
    assert "fingerprint" not in capsys.readouterr().out


def test_a_record_has_the_fingerprint_of_its_run(finished: Path) -> None:
    (first, second) = (json.loads(path.read_text()) for path in (finished / "root" / "records").iterdir())
    assert first["data_fingerprint"] == second["data_fingerprint"]
    assert first["data_fingerprint"] == read_stream(first["config"]["data"], 0)
    assert set(first["data_fingerprint"]) == {"rows", "inputs", "labels", "pairs", "order", "classes", "validation"}


@pytest.mark.parametrize("change", CHANGES)
def test_a_finished_run_of_other_data_is_refused_naming_what_differs(again: Path, change: str) -> None:
    alter, named = CHANGES[change]
    write(again / "reviews.csv", alter(ROWS))
    with pytest.raises(ValueError, match=ONE_LINE) as error:
        sweep.main(line(again))
    said = str(error.value)
    assert said.startswith(
        f"--root {again / 'root'}: the data has changed since 2 runs finished: lr=0.001 seed 0 differs"
    )
    assert f"{named} (record " in said
    assert "--run.resume_changed true" in said


def test_a_finished_run_whose_data_is_gone_is_refused(again: Path) -> None:
    (again / "reviews.csv").write_text("text,label\n")
    with pytest.raises(ValueError, match=r"cannot be compared, for the data cannot be read: .*reviews\.csv"):
        sweep.main(line(again))


def test_no_run_is_started_where_the_data_cannot_be_read(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (again / "reviews.csv").write_text("text,label\n")
    with pytest.raises(ValueError, match=r"no point has this figure .* runs failed, the first with: .*reviews\.csv"):
        sweep.main(line(again, "--data.seed=3"))
    said = " ".join(capsys.readouterr().out.split())
    assert "lr=0.001 seed 0: --data.source: " in said
    assert "reviews.csv" in said


def test_it_is_kept_where_that_is_asked_for(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(again / "reviews.csv", swapped(ROWS))
    assert sweep.main(line(again, "--run.resume_changed", "true")) == 0
    said = capsys.readouterr().out
    assert said.count("kept although its data has changed (--run.resume_changed true): differs in labels (record ") == 2


def test_records_without_a_fingerprint_are_kept_and_it_is_said(
    again: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(again, tmp_path / "copy")
    for path in (tmp_path / "copy" / "root" / "records").iterdir():
        record = json.loads(path.read_text())
        del record["data_fingerprint"]
        record["config"]["data"]["init_args"]["source"] = str(again / "reviews.csv")
        write_json(path, record)
    monkeypatch.setattr(streams, "read_stream", lambda *_: pytest.fail("the data was read"))
    assert sweep.main([*line(again), f"--root={tmp_path / 'copy' / 'root'}"]) == 0
    said = capsys.readouterr().out
    assert "2 finished runs of an earlier release without a fingerprint of the data" in said


def change_once_read(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Change the data after the command has read it, before its first run does."""

    def read(data: dict, seed: int) -> dict:
        found = read_stream(data, seed)
        write(path, swapped(ROWS))
        return found

    monkeypatch.setattr(streams, "read_stream", read)


def test_data_that_changes_during_a_sweep_is_noticed_before_the_first_step(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "encoder", tmp_path / "encoder")
    write(tmp_path / "reviews.csv", ROWS)
    change_once_read(monkeypatch, tmp_path / "reviews.csv")
    with forked_workers(), pytest.raises(ValueError, match="no point has this figure"):
        sweep.main(line(tmp_path))
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("data: it has changed since the command began") == 2
    assert "it differs in labels (first run " in said
    assert not list((tmp_path / "root").rglob("last.ckpt"))
    assert not list((tmp_path / "root" / "records").glob("*"))


def test_a_run_that_finished_on_other_data_before_its_record_was_written_is_refused(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "root", tmp_path / "root")
    store = Store(tmp_path / "root")
    (record, _) = (json.loads(path.read_text()) for path in sorted((tmp_path / "root" / "records").iterdir()))
    store.path(record["key"]).unlink()
    config = record["config"]
    other = {**record["data_fingerprint"], "rows": 41}
    job = Job(record["key"], config, 0, "own_text", "minilm", "a run", stream=other)
    with pytest.raises(RunError, match=r"it finished on other data, which differs in rows \(then 32, now 41\); delete"):
        runs.run(job, store, threads=1)
    assert not store.path(record["key"]).exists()


def test_data_that_changes_between_a_run_and_its_baseline_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / "encoder", tmp_path / "encoder")
    write(tmp_path / "reviews.csv", ROWS)
    rows = "\n".join(f"{text},{label}" for text, label in swapped(ROWS))
    (tmp_path / "changing.py").write_text(
        "from pathlib import Path\nimport lightning.pytorch as pl\n"
        "class Change(pl.Callback):\n"
        "    def on_train_end(self, trainer, pl_module):\n"
        f"        Path('reviews.csv').write_text({'text,label' + chr(10) + rows + chr(10)!r})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, text = run(
        [
            "fit", "--config=trainer/cpu", "--config=task/own_text", "--config=backbone/minilm",
            "--config=optimizer/adamw_1e-3", "--data.source=reviews.csv", "--data.val_fraction=0.2",
            "--model.backbone.name=encoder", "--trainer.enable_progress_bar=false", "--run.baselines=[sgd]",
            "--trainer.callbacks+=changing.Change",
        ],
        tmp_path,
    )  # fmt: skip
    assert code == 2, text
    error = text.strip().splitlines()[-1]
    assert error.startswith("filtune: error: data: it has changed since the command began")
    assert "pairs (first run " in error
    assert "Traceback" not in text


def test_data_that_changes_between_two_rounds_is_refused(again: Path) -> None:
    (job,) = sweep_jobs(again)
    known = Streams()
    known.check_unchanged()  # nothing has been read yet
    assert known.of(job)["rows"] == 32
    known.check_unchanged()
    write(again / "reviews.csv", ROWS[::-1])
    with pytest.raises(ValueError, match=r"^data: it has changed since the command began.* order \(first run \w+, now"):
        known.check_unchanged()


def sweep_jobs(folder: Path) -> list[Job]:
    """The first run of the sweep."""
    record = json.loads(next((folder / "root" / "records").iterdir()).read_text())
    return [Job(record["key"], record["config"], 0, "own_text", "minilm", "a run")]
