"""The trials of a sweep in Optuna's storage: shared, killed, continued; none is made twice."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from filtune.experiments import launchers, streams, sweep
from filtune.experiments.cells import Scale
from filtune.experiments.composition import compose
from filtune.experiments.estimate import Estimator
from filtune.experiments.records import Store
from filtune.experiments.reproduce import keep_manifest
from filtune.experiments.search import Bounds, SearchSpace, point_values
from filtune.experiments.tables import load_table
from filtune.experiments.trial_runs import TrialRuns
from filtune.experiments.trials import ABOUT, Sweep

from tests.reports.factory import record

RATES = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
PARTS = ["--config=task/digits", "--config=backbone/lenet5", "--config=optimizer/adamw_1e-3", "--data.max_samples=270"]
GRID = "--grid=optimizer.lr=" + ",".join(map(str, RATES))


def search(**changes: Any) -> Sweep:
    config = compose(["trainer/auto", "task/digits", "backbone/lenet5", "adamw_1e-3"], {"data.max_samples": 270})
    options = {
        "name": "s", "config": config, "parts": ("digits", "lenet5"), "space": SearchSpace({"optimizer.lr": RATES}, {}),
        "sampler": "grid", "total": 5, "seeds": [0], "metric": "online_accuracy", "pruner": None, "rate": 3,
        "folders": {}, **changes,
    }  # fmt: skip
    return Sweep(**options)


def drawn(sampler: str, total: int, **changes: Any) -> Sweep:
    return search(
        sampler=sampler, total=total, space=SearchSpace({}, {"optimizer.lr": Bounds(1e-6, 1e-1, True)}), **changes
    )


def score(lr: float) -> float:
    """A made-up accuracy, best at 0.001."""
    return 90 - 10 * abs(round(len(f"{1 / lr:.0f}") - 4)) - lr


def made_up(job: Any, **more: Any) -> dict[str, Any]:
    lr = job.config["optimizer"]["init_args"]["lr"]
    return record(job.key, job.seed, {"online_accuracy": score(lr)}, config=job.config, **more)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are made up; their labels in order. Data is not read."""
    made: list[str] = []

    def run(job: Any, store: Store, *_: Any) -> dict[str, Any]:
        made.append(job.label)
        found = made_up(job)
        store.write(found)
        return found

    monkeypatch.setattr(launchers, "run", run)
    monkeypatch.setattr(streams, "read_stream", lambda *_: {})
    monkeypatch.setattr(Estimator, "seconds", lambda *_: None)
    return made


def test_two_processes_share_the_points_and_none_is_made_twice(tmp_path: Path) -> None:
    first, second = (TrialRuns(search(), Store(tmp_path), None) for _ in range(2))
    taken = []
    while job := (first, second)[len(taken) % 2].take():
        taken.append(job.key)
    assert len(taken) == len(set(taken)) == 5
    assert not second.take()
    assert len(first.left()) == 2  # those of the second are waited for


def test_the_trial_of_a_process_that_is_gone_is_continued_by_another(tmp_path: Path) -> None:
    first, second = (TrialRuns(search(), Store(tmp_path), None) for _ in range(2))
    begun = first.take()
    assert second.take().key != begun.key
    first.close()
    assert second.take().key == begun.key
    assert len(second.trials.trials()) == 2


def test_a_trial_whose_runs_are_elsewhere_is_left_to_others(tmp_path: Path) -> None:
    storage = str(tmp_path / "trials.log")
    here, there = (TrialRuns(search(), Store(tmp_path / name), storage) for name in ("here", "there"))
    begun = here.take()
    here.close()
    taken = {there.take().key for _ in range(4)}
    assert begun.key not in taken
    assert there.take() is None
    there.close()
    assert TrialRuns(search(), Store(tmp_path / "here"), storage).take().key == begun.key


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_a_point_depends_on_its_number_not_on_the_process(tmp_path: Path, sampler: str) -> None:
    make: Callable[[], Sweep] = search if sampler == "grid" else lambda: drawn("random", 5)
    alone = TrialRuns(make(), Store(tmp_path / "alone"), None)
    shared = [TrialRuns(make(), Store(tmp_path / "shared"), None) for _ in range(2)]
    points = [alone.take().key for _ in range(5)]
    assert [shared[k % 2].take().key for k in range(5)] == points
    assert len(set(points)) == 5


def test_a_point_that_was_drawn_before_is_not_run_again(tmp_path: Path) -> None:
    space = SearchSpace({"optimizer.lr": [1e-3, 1e-2]}, {})
    process = TrialRuns(search(sampler="random", total=8, space=space), Store(tmp_path), None)
    keys = []
    while job := process.take():
        keys.append(job.key)
    assert len(keys) == len(set(keys)) == 2
    assert len(process.trials.study.trials) == 8
    assert len(process.ranked()) == 2


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_two_that_ask_for_the_last_trial_at_once_leave_the_one_too_many_to_a_longer_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    alone, store = TrialRuns(drawn(sampler, 5), Store(tmp_path / "alone"), None), Store(tmp_path / "shared")
    points = [alone.take().key for _ in range(5)]
    first, second = (TrialRuns(drawn(sampler, 3), store, None) for _ in range(2))
    keys = [first.take().key for _ in range(2)]
    ask = first.trials.study.ask

    def asked_by_both() -> Any:
        keys.append(second.take().key)
        return ask()

    monkeypatch.setattr(first.trials.study, "ask", asked_by_both)
    assert first.take() is None
    assert [trial.number for trial in first.trials.study.trials] == [0, 1, 2, 3]
    assert len(first.trials.trials()) == 3
    assert len(first.left()) == 1  # the last one, of the second
    for process in (first, second):
        process.close()
    longer = TrialRuns(drawn(sampler, 5), store, None)
    keys += [longer.take().key for _ in range(5)][3:]
    assert keys == points
    assert longer.take() is None


def test_two_sweeps_of_one_name_keep_their_results_apart(tmp_path: Path, runs: list[str]) -> None:
    """Whichever is first has the name, and keeps it."""
    root, sets = f"--root={tmp_path}", [[], ["--seeds=2"]]
    for more in [*sets, *sets]:
        assert sweep.main([*PARTS, GRID, root, *more]) == 0
    names = sorted(path.stem for path in (tmp_path / "manifests").iterdir())
    assert len(names) == 2
    assert names[0] == "sweep"
    assert sorted(path.stem for path in tmp_path.glob("*.yaml")) == names
    store = Store(tmp_path)
    assert [len(cell) for cell in store.read_manifest("sweep")["cells"].values()] == [1] * 5
    assert sum(len(keys) for name in names for keys in store.read_manifest(name)["cells"].values()) == 5 + 10


def test_a_sweep_and_a_table_of_one_name_keep_their_results_apart(tmp_path: Path, runs: list[str]) -> None:
    store, table = Store(tmp_path), load_table("loko.table1")
    keep_manifest(store, table, Scale(), [], {}, {})
    assert sweep.main([*PARTS, GRID, f"--root={tmp_path}", "--name=loko.table1"]) == 0
    assert store.read_manifest("loko.table1")["table"] == "loko.table1"
    assert sweep.main([*PARTS, GRID, f"--root={tmp_path}", "--name=loko.table2"]) == 0
    with pytest.raises(ValueError, match=r"^--root [^\n]*: its manifest loko.table2 is of a sweep or another table; "):
        keep_manifest(store, load_table("loko.table2"), Scale(), [], {}, {})


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_five_kills_change_neither_the_best_point_nor_the_number_of_trials(
    tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sampler: str
) -> None:
    more = [GRID] if sampler == "grid" else ["--range=optimizer.lr=1e-6,1e-1,log", "--trials=12"]
    line = [*PARTS, *more, f"--sampler={sampler}", "--seeds=2"]
    assert sweep.main([*line, f"--root={tmp_path / 'whole'}"]) == 0
    whole = runs.copy()
    make = launchers.run
    for kills in range(5):
        runs.clear()

        def killed(*job: Any, after: int = kills % 3) -> dict[str, Any]:
            if len(runs) == after:
                raise KeyboardInterrupt
            return make(*job)

        monkeypatch.setattr(launchers, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep.main([*line, f"--root={tmp_path / 'killed'}"])
    monkeypatch.setattr(launchers, "run", make)
    assert sweep.main([*line, f"--root={tmp_path / 'killed'}"]) == 0
    assert (tmp_path / "killed" / "sweep.yaml").read_text() == (tmp_path / "whole" / "sweep.yaml").read_text()
    studies = [load(tmp_path / name) for name in ("whole", "killed")]
    assert [len(study.trials) for study in studies] == [len(whole) // 2] * 2
    assert [t.params for t in studies[0].trials] == [t.params for t in studies[1].trials]
    assert "best: " in capsys.readouterr().out


def load(root: Path, name: str = "sweep") -> optuna.Study:
    """The study of a sweep, as Optuna itself and its dashboard load it."""
    (path,) = (root / "storage").glob("*.log")
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def test_optuna_loads_the_storage_and_says_the_same(tmp_path: Path, runs: list[str]) -> None:
    assert sweep.main([*PARTS, GRID, f"--root={tmp_path}"]) == 0
    study = load(tmp_path)
    assert study.best_params == {"optimizer.lr": 1e-3}
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}


def test_what_is_done_is_found_by_another_sweep_and_with_more_trials(
    tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*PARTS, "--sampler=random", "--range=optimizer.lr=1e-6,1e-1,log", f"--root={tmp_path}"]
    assert sweep.main([*line, "--trials=3"]) == 0
    assert sweep.main([*line, "--trials=5"]) == 0
    assert len(runs) == len(set(runs)) == 5
    assert sweep.main([*PARTS, GRID, f"--root={tmp_path}"]) == 0
    assert sweep.main([*PARTS, f"{GRID},0.5", f"--root={tmp_path}"]) == 0
    assert len(runs) == len(set(runs)) == 11
    assert len(list((tmp_path / "storage").iterdir())) == 3


def test_a_trial_whose_run_failed_is_taken_up_by_the_next_command(
    tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = launchers.run

    def fails(job: Any, *more: Any) -> dict[str, Any]:
        if "lr=0.01" in job.label:
            raise launchers.RunError("no")
        return make(job, *more)

    monkeypatch.setattr(launchers, "run", fails)
    assert sweep.main([*PARTS, GRID, f"--root={tmp_path}"]) == 1
    monkeypatch.setattr(launchers, "run", make)
    assert sweep.main([*PARTS, GRID, f"--root={tmp_path}"]) == 0
    assert sorted(runs) == sorted(set(runs))
    assert len(load(tmp_path).trials) == 5


def test_a_point_is_pruned_by_the_metric_of_its_first_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = TrialRuns(search(pruner="halving", seeds=[0, 1]), Store(tmp_path), None)
    steps = list(range(10, 271, 10))
    for _ in range(3):
        jobs = [process.take(), process.take()]
        for job in jobs:
            curve = {"online/accuracy": [steps, [90.0] * 27]}
            process.settle(job, made_up(job, curves=curve))
    first, second = process.take(), process.take()
    monkeypatch.setattr(
        "filtune.experiments.trial_runs.find_curve", lambda *_: (1, {"online/accuracy": (steps, [9.0] * 27)})
    )
    assert not process.stopped(second)
    assert process.stopped(first)
    assert process.stopped(second)
    process.settle(first, None)
    process.settle(second, None)
    (pruned,) = process.trials.trials(optuna.trial.TrialState.PRUNED)
    assert pruned.user_attrs["reason"] == "pruned after 3 of 27 parts"
    manifest = json.loads((tmp_path / "manifests" / "s.json").read_text())
    assert list(manifest["missing"].values()) == ["pruned after 3 of 27 parts"]
    assert len(process.trials.trials(optuna.trial.TrialState.COMPLETE)) == 3


def test_a_first_seed_that_ended_between_two_looks_prunes_the_others(tmp_path: Path) -> None:
    process, made = TrialRuns(search(pruner="halving", seeds=[0, 1]), Store(tmp_path), None), []
    while job := process.take():
        made.append(job)
        level = 90.0 - 10 * len(process.trials.trials())
        process.settle(job, made_up(job, curves={"online/accuracy": [list(range(10, 271, 10)), [level] * 27]}))
    states = [trial.state.name for trial in process.trials.trials()]
    assert states.count("PRUNED") >= 1
    assert states[0] == "COMPLETE"
    assert len(made) == sum(2 if state == "COMPLETE" else 1 for state in states)
    assert {len(trial.intermediate_values) for trial in process.trials.trials()} == {27}


def test_whole_numbers_and_others_are_different_searches() -> None:
    whole, others = (
        search(space=SearchSpace({}, {"optimizer.lr": Bounds(*ends, False)})) for ends in ((1, 9), (1.0, 9.0))
    )
    assert whole.about() != others.about()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--pruner=median", "--metric=val_accuracy"], "known at the end of a run alone"),
        (["--pruner=median", "--halving=3"], "leave one out"),
    ],
)
def test_a_pruner_that_would_do_nothing_is_refused(tmp_path: Path, line: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sweep.main([*PARTS, GRID, f"--root={tmp_path}", *line])


def test_a_point_that_diverges_is_no_best_one(tmp_path: Path) -> None:
    process = TrialRuns(search(), Store(tmp_path), None)
    while job := process.take():
        process.settle(job, made_up(job) if "lr=0.1" in job.label else {**made_up(job), "metrics": {}})
    assert process.best({}) == {"optimizer.lr": 0.1}
    assert len(process.trials.trials(optuna.trial.TrialState.PRUNED)) == 4


def test_what_was_measured_before_a_run_diverged_is_no_result() -> None:
    measured = record("a", 0, {"measured_error": 1.0})
    assert point_values(["a"], {"a": measured}, "measured_error") == [1.0]
    assert point_values(["a"], {"a": {**measured, "status": "diverged"}}, "measured_error") == []


ONE_LINE = "^--storage [^\n]*"


def test_a_storage_of_another_sweep_is_refused(tmp_path: Path) -> None:
    storage = str(tmp_path / "trials.log")
    TrialRuns(search(), Store(tmp_path), storage)
    with pytest.raises(ValueError, match=f"{ONE_LINE}its study s is of another sweep, which differs in metric, seeds;"):
        TrialRuns(search(metric="online_loss", seeds=[0, 1]), Store(tmp_path), storage)
    TrialRuns(search(metric="online_loss", name="other"), Store(tmp_path), storage)


def test_a_storage_of_another_version_is_refused(tmp_path: Path) -> None:
    storage = str(tmp_path / "trials.log")
    TrialRuns(search(), Store(tmp_path), storage).trials.study.set_user_attr(ABOUT, {"format": 99})
    with pytest.raises(ValueError, match=rf"{ONE_LINE}another version of filtune \(format 99, this one reads 1\)"):
        TrialRuns(search(), Store(tmp_path), storage)


@pytest.mark.slow
def test_a_database_holds_trials_unless_it_is_of_another_version_of_optuna(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/trials.db"
    begun = TrialRuns(search(), Store(tmp_path), storage).take()
    assert begun.key in {job.key for job in TrialRuns(search(), Store(tmp_path), storage).known()}
    with sqlite3.connect(tmp_path / "trials.db") as database:
        database.execute("update alembic_version set version_num = 'v99.0.0.a'")
    with pytest.raises(ValueError, match=f"{ONE_LINE}cannot be opened, it is damaged, of another version of Optuna"):
        TrialRuns(search(), Store(tmp_path), storage)


def test_a_study_that_is_not_of_a_sweep_is_refused(tmp_path: Path) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "trials.log"))
    optuna.create_study(storage=optuna.storages.JournalStorage(backend), study_name="s").ask()
    with pytest.raises(ValueError, match=f"{ONE_LINE}is not of filtune sweep"):
        TrialRuns(search(), Store(tmp_path), str(tmp_path / "trials.log"))


@pytest.mark.parametrize("content", ["x\n\n", '{"a": 1}\n', "[1]\n", "\0\n{}"])
def test_a_damaged_journal_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "trials.log").write_text(content)
    with pytest.raises(ValueError, match=f"{ONE_LINE}trials.log: cannot be opened"):
        TrialRuns(search(), Store(tmp_path), str(tmp_path / "trials.log"))


@pytest.mark.parametrize(
    "url", ["sqlite:////not/there/x.db", "nodriver://u:secret@h/x", "nodriver://u:a/secret:b@h/x", "redis://x"]
)
def test_a_database_that_is_not_there_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match=f"{ONE_LINE}cannot be opened") as error:
        TrialRuns(search(), Store(tmp_path), url)
    assert "secret" not in str(error.value)


def test_a_folder_is_no_storage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{ONE_LINE}cannot be opened"):
        TrialRuns(search(), Store(tmp_path), str(tmp_path))
