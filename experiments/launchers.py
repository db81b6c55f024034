"""Launchers of runs: in processes of this machine, or as jobs of a SLURM cluster.

Locally a thread of :class:`concurrent.futures.ThreadPoolExecutor` waits for each process. The executors that hold
processes of their own were compared and are no replacement: a run started by submitit's ``LocalExecutor`` outlives the
command, and joblib and ``ProcessPoolExecutor`` run several runs in one process, whose peak memory is then that of none.
On a cluster submitit's ``SlurmExecutor`` submits, watches and requeues jobs.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from filtune.lightning_modules.atomic import atomic_write

from .composition import lookup, parse_options
from .records import Record, Store
from .runs import Job, RunDied, RunError, run, worker_environment

GRACE = 10.0
"""Seconds that runs have to save a checkpoint when the command is stopped."""

SUBMITTED = "slurm_job"
"""File in a run's folder with the number of the last job of the cluster that was to make it."""

AT_ONCE = 1000
"""Most jobs of one SLURM array; the default limit of a cluster is 1,001."""

REQUEUES = 100
"""Times a job is requeued that ran out of time; it resumes from its checkpoint."""

QUERIES = 20
"""Queries of the cluster's accounting (``sacct``) after which a job in one of the states ``LOST`` is lost. submitit
repeats a query after half of the time that has passed, at the latest after 10 minutes: in all about 90 minutes."""

LOST = ("UNKNOWN", "PREEMPTED")
"""States in which a job is lost if they last: submitit alone would wait without end."""


class Launcher(ABC):
    """A launcher of runs, several at a time.

    Args:
        store: Where records and run folders are.
        workers: Runs at a time.
        threads: Threads of each.

    Attributes:
        queued: Runs that are under way at a time; those beyond ``workers`` wait in the launcher's own queue.
    """

    def __init__(self, store: Store, workers: int, threads: int) -> None:
        self.store, self.workers, self.threads, self.queued = store, workers, threads, workers

    def earlier(self, job: Job) -> Any:
        """Return the handle of a run that an earlier command started and that is still under way; None by default."""
        return None

    def room(self, running: int) -> int:
        """Return how many runs may be submitted beside those under way."""
        return self.workers - running

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> list[Any]:
        """Start runs, at most as many as there is room for; return a handle of each, with ``done()``."""

    @abstractmethod
    def result(self, handle: Any) -> Record:
        """Return the record of a run that is done.

        Raises:
            RunError: If there is none; :class:`RunDied` if its process or job died.
        """

    @abstractmethod
    def cancel(self, job: Job, handle: Any) -> None:
        """Stop a run, which saves a checkpoint."""

    @abstractmethod
    def stop(self, running: dict[Any, Job]) -> None:
        """Stop all runs, by their handles."""


class Local(Launcher):
    """Runs in processes of this machine; with several GPUs each has one of its own.

    They end with this process, however it ends, and resume from their checkpoints.
    """

    def __init__(self, store: Store, workers: int, threads: int) -> None:
        super().__init__(store, workers, threads)
        self._pool = ThreadPoolExecutor(workers)
        self._processes: dict[str, subprocess.Popen] = {}
        self._cancelled: set[str] = set()
        self._stopped = False
        self._devices: SimpleQueue[str | None] = SimpleQueue()
        gpus = visible_gpus() if workers > 1 else []
        for slot in range(workers):
            self._devices.put(gpus[slot % len(gpus)] if len(gpus) > 1 else None)

    def submit(self, jobs: Sequence[Job]) -> list[Future[Record]]:
        """Start runs, each in a process of its own."""
        return [self._pool.submit(self._run, job) for job in jobs]

    def result(self, handle: Future[Record]) -> Record:
        """Return the record of a run."""
        return handle.result()

    def cancel(self, job: Job, handle: Future[Record]) -> None:
        """Stop a run."""
        self._cancelled.add(job.key)
        if process := self._processes.get(job.key):
            process.terminate()

    def stop(self, running: dict[Future[Record], Job]) -> None:
        """Stop all runs; those that have not saved a checkpoint after a while are killed."""
        self._stopped = True
        for handle, job in running.items():
            if not handle.cancel():
                self.cancel(job, handle)
        for handle in wait(running, timeout=GRACE).not_done:
            if process := self._processes.get(running[handle].key):
                process.kill()

    def _run(self, job: Job) -> Record:
        device = self._devices.get()

        def register(process: subprocess.Popen) -> None:
            self._processes[job.key] = process
            if self._stopped or job.key in self._cancelled:
                process.terminate()

        one_device = lookup(job.config, "trainer.devices") in (1, None)
        try:
            if self._stopped or job.key in self._cancelled:
                raise RunError("stopped")
            return run(job, self.store, self.threads, register, device if one_device else None)
        finally:
            self._processes.pop(job.key, None)
            self._devices.put(device)


def visible_gpus() -> list[str]:
    """Return the GPUs of this machine that may be used, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


class Slurm(Launcher):
    """Runs as jobs of a SLURM cluster, through submitit.

    Jobs outlive this command if it is killed; the same command then waits for them. A job that runs out of time, or is
    preempted, saves a checkpoint, is requeued and resumes. The root is to be on a file system that all nodes share.

    Args:
        store: Where records and run folders are.
        workers: Jobs at a time.
        threads: Threads of each.
        options: Parameters of submitit's ``SlurmExecutor``, such as ``partition``, ``time`` in minutes (240 by
            default), ``gpus_per_node``, ``cpus_per_task`` (``threads`` by default), ``array_parallelism`` (``workers``
            by default).

    Raises:
        ValueError: If submitit is missing, there is no cluster, or an option is unknown.
    """

    def __init__(self, store: Store, workers: int, threads: int, options: dict[str, Any]) -> None:
        super().__init__(store, workers, threads)
        try:
            from submitit import SlurmExecutor
        except ImportError as error:
            raise ValueError("--launcher slurm: needs submitit; pip install 'filtune[slurm]'") from error
        check_cluster()
        environment = worker_environment()
        exported = [name for name in ("PYTHONPATH", "PYTHONSAFEPATH") if name in environment]
        parameters = {
            "job_name": "filtune",
            "time": 240,
            "cpus_per_task": threads,
            "array_parallelism": workers,
            "stderr_to_stdout": True,
            "setup": [f"export {name}={shlex.quote(environment[name])}" for name in exported],
        }
        self._executor = SlurmExecutor(store.root.resolve() / "slurm", max_num_timeout=REQUEUES)
        try:
            self._executor.update_parameters(**{**parameters, **options})
            self.workers = max(1, int(self._executor.parameters["array_parallelism"]))
        except ValueError as error:
            known = "partition, time, gpus_per_node, cpus_per_task, mem, account, qos, array_parallelism, constraint"
            raise ValueError(f"--slurm: {str(error).splitlines()[0]}; there are {known} and others") from error
        self.queued = AT_ONCE

    def earlier(self, job: Job) -> ClusterJob | None:
        """Return the job of an earlier command that waits or runs; None where there is none."""
        from submitit import SlurmJob

        number = self._number(job)
        try:
            found = SlurmJob(self._executor.folder, number.read_text().strip())
        except (OSError, ValueError):
            return None
        return None if found.done(force_check=True) else ClusterJob(found, number)

    def room(self, running: int) -> int:
        """Return how many jobs may be submitted: an array, which bounds itself, if there are none, else up to workers.

        Each array runs ``workers`` of its own jobs at a time, whatever else is there.
        """
        return self.workers - running if running else AT_ONCE

    def submit(self, jobs: Sequence[Job]) -> list[ClusterJob]:
        """Submit runs as one array; a cluster that refuses them is an error."""
        from submitit.core.utils import FailedJobError

        makers = [ClusterRun(job, self.store.root.resolve(), self.threads) for job in jobs]
        try:
            with redirect_stderr(StringIO()):  # submitit prints what the error says
                handles = self._executor.submit_array(makers)
        except FailedJobError as error:
            raise ValueError(f"--launcher slurm: sbatch refuses the jobs: {' '.join(str(error).split())}") from error
        for job, handle in zip(jobs, handles, strict=True):
            with atomic_write(self._number(job)) as file:
                file.write(handle.job_id)
        return [ClusterJob(handle, self._number(job)) for job, handle in zip(jobs, handles, strict=True)]

    def result(self, handle: ClusterJob) -> Record:
        """Return the record that the job wrote."""
        return handle.result()

    def cancel(self, job: Job, handle: ClusterJob) -> None:
        """Cancel a job; its run saves a checkpoint."""
        handle.job.cancel(check=False)

    def stop(self, running: dict[Any, Job]) -> None:
        """Cancel all jobs."""
        for handle, job in running.items():
            self.cancel(job, handle)

    def _number(self, job: Job) -> Path:
        return self.store.runs(job.key) / SUBMITTED


class ClusterJob:
    """A job of the cluster, which is done also when it is lost.

    Args:
        job: submitit's job.
        number: The file with its number.
    """

    def __init__(self, job: Any, number: Path) -> None:
        self.job, self._number = job, number
        self._known = job.watcher.num_calls

    def done(self) -> bool:
        """Return whether the job is done or lost: unknown, or preempted without a requeue, at ``QUERIES`` queries."""
        return self.job.done() or self._is_lost()

    def _is_lost(self) -> bool:
        if self._state("cache") not in LOST:
            self._known = self.job.watcher.num_calls
        return self.job.watcher.num_calls - self._known >= QUERIES

    def _state(self, mode: str = "standard") -> str:
        return self.job.watcher.get_state(self.job.job_id, mode=mode).split()[0]

    def result(self) -> Record:
        """Return the record that the job wrote.

        Raises:
            RunError: What the run raised; :class:`RunDied` if the job left no result or is lost. A lost one is
                cancelled and forgotten, so that no two jobs make one run.
        """
        from submitit.core.utils import UncompletedJobError

        more = f"(state {self._state()}); see {self.job.paths.stdout}"
        if not self.job.done():
            self.job.cancel(check=False)
            self._number.unlink(missing_ok=True)
            raise RunDied(f"job {self.job.job_id} is lost {more}")
        try:
            found = self.job.result()
        except UncompletedJobError as error:
            raise RunDied(f"job {self.job.job_id} ended without a result {more}") from error
        if isinstance(found, Exception):
            raise found
        return found


def check_cluster() -> None:
    """Check that a SLURM cluster answers.

    Raises:
        ValueError: If it does not.
    """
    for command in (["sinfo", "--noheader"], ["sacct", "--noheader", "--jobs=1"]):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        except FileNotFoundError as error:
            raise ValueError(
                f"--launcher slurm: there is no {command[0]} here; log in to a node of the cluster that submits jobs, "
                "or leave the option out"
            ) from error
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
            raise ValueError(
                f"--launcher slurm: the cluster does not answer ({command[0]}: {lines[-1] if lines else error})"
            ) from error


class ClusterRun:
    """A run as a job of a cluster: called on a node, it returns the record or the error.

    Args:
        job: What to run.
        root: Root of the store.
        threads: Threads of the run.
    """

    def __init__(self, job: Job, root: Path, threads: int) -> None:
        self.job, self.root, self.threads = job, root, threads
        self._process: subprocess.Popen | None = None

    def __call__(self) -> Record | Exception:
        """Make the run, or resume it."""
        try:
            return run(self.job, Store(self.root), self.threads, self._register)
        except (RunError, OSError) as error:
            return error

    def checkpoint(self) -> Any:
        """Stop the run and return what is to be submitted in its place; called when time runs out."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()  # Popen.wait would never return: this handler interrupts it
            with suppress(ChildProcessError):  # it had ended, and was waited for, just before
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(ClusterRun(self.job, self.root, self.threads))

    def _register(self, process: subprocess.Popen) -> None:
        self._process = process


LAUNCHERS = ("local", "slurm")


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of a cluster's jobs, from ``KEY=VALUE``.

    Raises:
        ValueError: If one is not of that form.
    """
    return {key.replace("-", "_"): value for key, value in parse_options(pairs, "--slurm", "time=120").items()}
