"""Where runs are made: processes with a GPU each, resumed once when they die; a cluster and what it may answer."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filtune.experiments import launchers, runner, runs
from filtune.experiments.launchers import ClusterRun, Local, Slurm, read_options, visible_gpus
from filtune.experiments.records import Store
from filtune.experiments.runner import Listed, Outcome, Runner
from filtune.experiments.runs import Job, RunDied, RunError
from filtune.experiments.streams import Streams
from rich.console import Console

from tests.reports.factory import record


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Streams, "prepared", lambda self, job: job)
    monkeypatch.setattr(Streams, "check_unchanged", lambda self: None)


def job(name: str, **trainer: Any) -> Job:
    return Job(f"v2-{name * 16}", {"trainer": {"devices": 1, **trainer}}, 0, "digits", "lenet5", name)


def execute(launcher: Any, *jobs: Job) -> Outcome:
    runner = Runner(launcher, Console(file=open(os.devnull, "w")))  # noqa: SIM115
    runner.estimator = SimpleNamespace(seconds=lambda *_: None, learn=lambda _: None)
    return runner.execute(Listed(jobs))


def finished(made: Job) -> dict[str, Any]:
    return record(made.key, 0, {"online_accuracy": 1.0})


def test_jobs_have_a_gpu_each_unless_one_has_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-x")
    assert visible_gpus() == ["4", "GPU-x"]
    started: dict[str, str | None] = {}

    def run(made: Job, store: Store, threads: int, register: Any, device: str | None) -> dict[str, Any]:
        started[made.label] = device
        while len(started) < 2 and made.label in "ab":
            pass
        return finished(made)

    monkeypatch.setattr(launchers, "run", run)
    execute(Local(Store(tmp_path), 2, 1), job("a"), job("b"), job("c", devices=2))
    assert sorted([started["a"], started["b"]]) == ["4", "GPU-x"]
    assert started["c"] is None


@pytest.mark.parametrize("gpus", ["", "3"])
def test_without_a_choice_of_gpus_nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    devices = []
    monkeypatch.setattr(launchers, "run", lambda made, *more: devices.append(more[-1]) or finished(made))
    execute(Local(Store(tmp_path), 2, 1), job("a"), job("b"))
    assert devices == [None, None]


@pytest.mark.parametrize(("deaths", "whole"), [(1, True), (2, False)])
def test_a_run_that_dies_is_resumed_once_then_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, whole: bool
) -> None:
    died = []

    def run(made: Job, *_: Any) -> dict[str, Any]:
        if made.label == "a" and len(died) < deaths:
            died.append(made)
            raise RunDied("its process was killed by SIGKILL")
        return finished(made)

    monkeypatch.setattr(launchers, "run", run)
    outcome = execute(Local(Store(tmp_path), 1, 1), job("a"), job("b"))
    assert len(died) == deaths
    assert (job("a").key in outcome.records, job("a").key in outcome.failures) == (whole, not whole)
    assert job("b").key in outcome.records


def test_a_run_that_fails_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def run(one: Job, *_: Any) -> dict[str, Any]:
        made.append(one)
        raise RunError("no")

    monkeypatch.setattr(launchers, "run", run)
    assert execute(Local(Store(tmp_path), 1, 1), job("a")).failures == {job("a").key: "no"}
    assert len(made) == 1


def test_a_process_that_is_killed_is_one_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = SimpleNamespace(wait=lambda: -signal.SIGKILL)
    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(Popen=lambda *_, **__: killed, PIPE=0, STDOUT=0))
    with pytest.raises(RunDied, match=r"^its process was killed by SIGKILL; see .*output\.txt$"):
        runs.run(job("a"), Store(tmp_path), 1)


def test_a_process_sees_its_gpu_alone_and_nothing_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    seen: list[dict[str, str]] = []

    def start(command: list[str], env: dict[str, str], **_: Any) -> Any:
        seen.append(env)
        return SimpleNamespace(wait=lambda: 1)

    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(Popen=start, PIPE=0, STDOUT=0))
    with pytest.raises(RunError):
        runs.run(job("a"), Store(tmp_path), 3, device="7")
    assert (seen[0]["CUDA_VISIBLE_DEVICES"], seen[0]["OMP_NUM_THREADS"]) == ("7", "3")
    assert "SLURM_NTASKS" not in seen[0]


class Handle:
    """A job of a made-up cluster."""

    def __init__(self, makes: ClusterRun, number: int, cluster: Cluster) -> None:
        self.job_id, self.state, self.makes, self.cluster = str(number), "FAILED", makes, cluster
        self.paths = SimpleNamespace(stdout=f"{number}.out", result_pickle=Path("/not/there"))

    def done(self, force_check: bool = False) -> bool:
        return True

    def result(self) -> Any:
        from submitit.core.utils import UncompletedJobError

        if self.cluster.lost:
            self.cluster.lost -= 1
            raise UncompletedJobError("a\nlong\nstory")
        return pickle.loads(pickle.dumps(self.makes))()


class Cluster:
    """submitit's executor of a made-up cluster that loses the first jobs."""

    lost = 0
    folder = Path("slurm")

    def __init__(self, *_: Any, **__: Any) -> None:
        self.handles: list[Handle] = []
        self.parameters: dict[str, Any] = {}

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters = parameters

    def submit_array(self, makers: list[ClusterRun]) -> list[Handle]:
        self.handles += [Handle(maker, len(self.handles) + n, self) for n, maker in enumerate(makers)]
        return self.handles[-len(makers) :]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that answers, and runs that are made up."""
    pytest.importorskip("submitit")
    monkeypatch.setattr("submitit.SlurmExecutor", Cluster)
    monkeypatch.setattr("submitit.SlurmJob", lambda folder, number: Handle(None, int(number), None))
    monkeypatch.setattr(launchers, "check_cluster", lambda: None)
    monkeypatch.setattr(launchers, "run", made_up)
    # its jobs are done at once
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None))


def made_up(made: Job, store: Store, *_: Any) -> dict[str, Any]:
    if made.label == "e":
        raise RunError("no such option")
    return finished(made)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_makes_runs_and_errors_come_back_in_one_line(tmp_path: Path) -> None:
    launcher = Slurm(Store(tmp_path), 4, 2, {"partition": "gpu"})
    parameters = launcher._executor.parameters
    assert (parameters["array_parallelism"], parameters["cpus_per_task"], parameters["partition"]) == (4, 2, "gpu")
    outcome = execute(launcher, job("a"), job("e"))
    assert set(outcome.records) == {job("a").key}
    assert outcome.failures == {job("e").key: "no such option"}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("lost", "failures"), [(1, {}), (2, {job("a").key: "job 1 ended without a result (state FAILED); see 1.out"})]
)
def test_a_job_that_is_lost_is_resubmitted_once_then_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int, failures: dict[str, str]
) -> None:
    monkeypatch.setattr(Cluster, "lost", lost)
    launcher = Slurm(Store(tmp_path), 1, 1, {})
    assert execute(launcher, job("a")).failures == failures
    assert len(launcher._executor.handles) == 2


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^--launcher slurm: there is no sinfo here; log in to[^\n]*$"):
        Slurm(Store(tmp_path), 1, 1, {})
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho a >&2; echo no controller >&2; exit 1\n")
    (tmp_path / "sinfo").chmod(0o755)
    with pytest.raises(ValueError, match=r"^--launcher slurm: the cluster does not answer \(sinfo: no controller\)$"):
        Slurm(Store(tmp_path), 1, 1, {})


def test_an_option_of_no_cluster_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(launchers, "check_cluster", lambda: None)
    monkeypatch.setattr("submitit.SlurmExecutor.affinity", lambda *_: 2)
    with pytest.raises(ValueError, match=r"^--slurm: Unavailable parameter\(s\): \['partitoin'\]; there are[^\n]*$"):
        Slurm(Store(tmp_path), 1, 1, {"partitoin": "x"})
    with pytest.raises(ValueError, match="--slurm partition: is to be KEY=VALUE"):
        read_options(["partition"])
    assert read_options(["time=30", "gpus-per-node=1"]) == {"time": 30, "gpus_per_node": 1}


def test_submitit_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"^--launcher slurm: needs submitit; pip install 'filtune\[slurm\]'$"):
        Slurm(Store(tmp_path), 1, 1, {})


def test_a_job_whose_time_runs_out_stops_its_run_first(tmp_path: Path) -> None:
    """The handler of the signal interrupts the wait for the process, and must not wait for the lock of that."""
    pytest.importorskip("submitit")
    process = subprocess.Popen(["sleep", "600"])
    maker = ClusterRun(job("a"), tmp_path, 1)
    maker._register(process)
    again: list[Any] = []
    before = signal.signal(signal.SIGALRM, lambda *_: again.append(maker.checkpoint()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        assert process.wait() == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGALRM, before)
    assert again[0].function.job == maker.job


def test_a_run_cancelled_before_it_begins_leaves_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "run", lambda made, *_: finished(made))
    local = Local(Store(tmp_path), 1, 1)
    local.cancel(job("a"), Future())
    cancelled, other = local.submit([job("a"), job("b")])
    assert isinstance(cancelled.exception(timeout=60), RunError)
    assert other.result(timeout=60)["key"] == job("b").key
