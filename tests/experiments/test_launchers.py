"""Where runs are made: processes with a GPU each, resumed once when they die; a cluster and what it may answer."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
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


def test_a_run_that_is_preempted_is_resumed_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM to the run alone, of a cluster that does not requeue: once in the same command, then reported."""
    ends = SimpleNamespace(wait=lambda: 128 + signal.SIGTERM)
    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(Popen=lambda *_, **__: ends, PIPE=0, STDOUT=0))
    said = "the run was stopped before its end (SIGTERM); the same command goes on with it"
    with pytest.raises(RunDied) as error:
        runs.run(job("a"), Store(tmp_path), 1)
    assert str(error.value) == said
    outcome = execute(Local(Store(tmp_path), 1, 1), job("a"))
    assert outcome.failures == {job("a").key: said}
    assert execute(Local(Store(tmp_path), 1, 1), job("a")).failures == outcome.failures  # it is tried again


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


class Watcher:
    """Queries of the accounting of the made-up cluster."""

    num_calls = 0

    def get_state(self, number: str, mode: str) -> str:
        return Cluster.jobs[number].state


class Handle:
    """A job of the made-up cluster."""

    watcher = Watcher()

    def __init__(self, makes: ClusterRun, number: str) -> None:
        self.job_id, self.makes, self.state = number, makes, "PENDING"
        self.paths = SimpleNamespace(stdout=f"{number}.out")

    def done(self, force_check: bool = False) -> bool:
        self.watcher.num_calls += 1
        return self.state in ("COMPLETED", "FAILED", "CANCELLED")

    def cancel(self, check: bool) -> None:
        self.state = "CANCELLED"

    def result(self) -> Any:
        from submitit.core.utils import UncompletedJobError

        if self.state != "COMPLETED":
            raise UncompletedJobError("a\nlong\nstory")
        return pickle.loads(pickle.dumps(self.makes))()


class Cluster:
    """submitit's executor of a made-up cluster.

    At each tick the running jobs of an array end, at most ``array_parallelism`` of them, each in the next state of
    ``ends``.
    """

    folder = Path("slurm")
    jobs: dict[str, Handle]
    arrays: list[tuple[int, list[Handle]]]
    ends: list[str]
    most = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self.parameters: dict[str, Any] = {}

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters = parameters

    def submit_array(self, makers: list[ClusterRun]) -> list[Handle]:
        handles = [Handle(maker, str(len(self.jobs) + n)) for n, maker in enumerate(makers)]
        self.jobs.update({handle.job_id: handle for handle in handles})
        self.arrays.append((self.parameters["array_parallelism"], handles))
        return handles

    @classmethod
    def tick(cls, _: float = 0) -> None:
        waiting = [[job for job in jobs if job.state == "PENDING"][:most] for most, jobs in cls.arrays]
        running = [job for jobs in waiting for job in jobs]
        cls.most = max(cls.most, len(running))
        for job in running:
            job.state = cls.ends.pop(0) if cls.ends else "COMPLETED"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that answers, and runs that are made up."""
    pytest.importorskip("submitit")
    for name, value in (("jobs", {}), ("arrays", []), ("ends", []), ("most", 0)):
        monkeypatch.setattr(Cluster, name, value, raising=False)
    monkeypatch.setattr(Handle, "watcher", Watcher())
    monkeypatch.setattr("submitit.SlurmExecutor", Cluster)
    monkeypatch.setattr("submitit.SlurmJob", lambda folder, number: Cluster.jobs[number])
    monkeypatch.setattr(launchers, "check_cluster", lambda: None)
    monkeypatch.setattr(launchers, "run", made_up)
    monkeypatch.setattr(runner, "time", SimpleNamespace(sleep=Cluster.tick, monotonic=time.monotonic))


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
@pytest.mark.parametrize("state", ["FAILED", "UNKNOWN", "PREEMPTED"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_job_that_is_lost_is_resubmitted_once_then_reported(tmp_path: Path, state: str, times: int) -> None:
    """Also one that the accounting does not know, or that was preempted and not requeued: nobody would run it again."""
    Cluster.ends[:] = [state] * times
    launcher = Slurm(Store(tmp_path), 1, 1, {})
    failures = execute(launcher, job("a")).failures
    said = {"FAILED": "ended without a result (state FAILED)"}.get(state, f"is lost (state {state})")
    assert failures == ({job("a").key: f"job 1 {said}; see 1.out"} if times == 2 else {})
    assert len(Cluster.jobs) == 2
    if state != "FAILED":
        assert Cluster.jobs["0"].state == "CANCELLED"  # a job that the cluster has after all makes no second run
        assert Handle.watcher.num_calls <= 2 * (times * launchers.QUERIES + 10)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("ends", ["UNKNOWN", "PREEMPTED"])
def test_a_job_that_is_not_known_at_first_is_waited_for(tmp_path: Path, ends: str) -> None:
    (handle,) = Slurm(Store(tmp_path), 1, 1, {}).submit([job("a")])
    for state in [*[ends] * (launchers.QUERIES - 1), "PENDING"] * 3:
        handle.job.state = state
        assert not handle.done()
    Cluster.tick()
    assert handle.done()
    assert handle.result()["key"] == job("a").key


@pytest.mark.usefixtures("cluster")
def test_a_command_that_was_killed_waits_for_its_jobs(tmp_path: Path) -> None:
    """The second command submits what has no job, waits for the job that is there, and makes again what is lost."""
    first = Slurm(Store(tmp_path), 2, 1, {})
    first.submit([job("a"), job("b"), job("c")])
    Cluster.jobs["0"].state = "FAILED"
    Cluster.jobs["2"].state = "UNKNOWN"
    outcome = execute(Slurm(Store(tmp_path), 2, 1, {}), job("a"), job("b"), job("c"), job("d"))
    assert outcome.records.keys() == {job(name).key for name in "abcd"}
    makers = [handle.makes.job.label for handle in Cluster.jobs.values()]
    assert sorted(makers[3:]) == ["a", "c", "d"]
    assert Cluster.jobs["1"].state == "COMPLETED"
    assert first.earlier(job("b")) is None


@pytest.mark.usefixtures("cluster")
def test_a_cluster_never_runs_more_than_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither beyond the largest array, nor with jobs that die, nor beside those of an earlier command."""
    monkeypatch.setattr(launchers, "AT_ONCE", 5)
    jobs = [replace(job("a"), key=f"v2-{number:016}", label=f"a{number}") for number in range(17)]
    Slurm(Store(tmp_path), 2, 1, {}).submit(jobs[:4])
    Cluster.ends[:] = ["COMPLETED"] * 3 + ["FAILED", "COMPLETED"] * 2
    assert len(execute(Slurm(Store(tmp_path), 2, 1, {}), *jobs).records) == 17
    assert Cluster.most == 2
    monkeypatch.setattr(Cluster, "most", 0)
    launcher = Slurm(Store(tmp_path / "more"), 2, 1, {"array_parallelism": 3})
    assert len(execute(launcher, *jobs).records) == 17
    assert Cluster.most == 3


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
