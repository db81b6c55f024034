"""SIGTERM, SIGINT and SIGHUP save and give the exit status that a shell expects; SIGUSR1 on SLURM requeues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from filtune.experiments.runs import worker_environment
from filtune.lightning_modules import signals

from tests.cli.harness import CONTEXT, _run, identical, only_run, result, run

LENGTH, PATIENCE = 2000, 240
COMMON = [
    "fit", "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--config=optimizer/adamw_1e-3",
    "--data.max_val_samples=20", "--trainer.enable_progress_bar=false",
]  # fmt: skip
LONG = [*COMMON, f"--trainer.max_epochs={LENGTH}", "--run.save_interval=100000"]
SHORT = [*COMMON, "--data.max_samples=40", "--run.save_interval=10"]


class SignalAt(pl.Callback):
    """Sends a signal to its own process in the middle of a step.

    Args:
        step: Global step before it.
        number: The signal.
    """

    def __init__(self, step: int, number: int = 15) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)


def wait_for(found: Callable[[], Any], process: Any) -> None:
    until = time.monotonic() + PATIENCE
    while not found():
        assert process.is_alive() if hasattr(process, "is_alive") else process.poll() is None, "it has ended"
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Starts a run in a process of its own, with an environment; it is killed in the end."""
    found = []

    def start(args: list[str], environment: dict[str, str] | None = None) -> tuple[Any, Any]:
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_started, args=(args, str(tmp_path), sender, environment or {}))
        process.start()
        sender.close()
        found.append(process)
        return process, receiver

    yield start
    for process in found:
        process.kill()
        process.join()


def _started(args: list[str], folder: str, output: Any, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    _run(args, folder, output)


def is_training(folder: Path) -> bool:
    """Whether events have been logged, as they are after 50 steps."""
    return any(path.stat().st_size > 5000 for path in folder.rglob("events.out.tfevents.*"))


# the handler is the same for all three; their statuses are those of the second signal below
@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_gives_its_status(
    tmp_path: Path, started: Callable[..., tuple[Any, Any]], number: signal.Signals, status: int
) -> None:
    process, receiver = started([*LONG, "--trainer.log_every_n_steps=1"])
    wait_for(lambda: is_training(tmp_path), process)
    os.kill(process.pid, number)
    assert receiver.poll(PATIENCE)
    code, text = receiver.recv()
    assert code == status, text
    assert text.strip().splitlines()[-1] == f"filtune: stopped by {number.name}"
    assert "Traceback" not in text
    assert (only_run(tmp_path) / "checkpoints" / "last.ckpt").is_file()  # far from the interval
    assert not (only_run(tmp_path) / "summary.json").exists()


def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    assert run(SHORT, whole)[0] == 0
    kill = "{class_path: tests.cli.test_stopping.SignalAt, init_args: {step: 13}}"
    code, text = run([*SHORT, f"--trainer.callbacks=[{kill}]"], stopped)
    assert code == 143, text
    assert "stopped at step 13" in text
    code, text = run([*SHORT, "--ckpt_path=last"], stopped)
    assert code == 0, text
    a, b = result(only_run(whole)), result(only_run(stopped))
    assert a[0] == b[0]
    assert identical(a[1]["state_dict"], b[1]["state_dict"])


def test_before_and_in_a_validation_it_stops_at_once(tmp_path: Path) -> None:
    """In the last step before a validation nothing can be saved; the checkpoint before it stays."""
    kill = "{class_path: tests.cli.test_stopping.SignalAt, init_args: {step: 40}}"
    code, text = run([*SHORT, f"--trainer.callbacks=[{kill}]"], tmp_path)
    assert code == 143, text
    code, text = run([*SHORT, "--ckpt_path=last"], tmp_path)
    assert code == 0, text
    assert result(only_run(tmp_path))[0]["samples"] == 40


def test_a_signal_in_one_run_stops_the_command(tmp_path: Path) -> None:
    kill = "{class_path: tests.cli.test_stopping.SignalAt, init_args: {step: 13, number: 1}}"
    code, text = run([*SHORT, f"--trainer.callbacks=[{kill}]", "--run.baselines=[sgd]"], tmp_path)
    assert code == 129, text
    assert not list(tmp_path.glob("runs/*/SGD*"))


def test_slurm_requeues_after_a_step_and_the_job_resumes(tmp_path: Path) -> None:
    """Lightning's own handler is called, between two steps; the same command of the requeued job resumes the run."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    slurm = {
        "SLURM_NTASKS": "1", "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip
    numbers = ", ".join(
        f"{{class_path: tests.cli.test_stopping.SignalAt, init_args: {{step: {step}, number: {number}}}}}"
        for step, number in ((13, int(signal.SIGUSR1)), (17, int(signal.SIGTERM)))
    )
    assert run_in(slurm, [*SHORT, f"--trainer.callbacks=[{numbers}]"], tmp_path)[0] == 143
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
    folder = only_run(tmp_path)
    assert (folder / "checkpoints" / "hpc_ckpt_1.ckpt").is_file()
    code, text = run_in({**slurm, "SLURM_RESTART_COUNT": "1"}, SHORT, tmp_path)
    assert code == 0, text
    assert only_run(tmp_path) == folder
    run(SHORT, tmp_path / "bin")
    a, b = result(folder), result(only_run(tmp_path / "bin"))
    assert a[0]["samples"] == 40
    assert identical(a[1]["state_dict"], b[1]["state_dict"])
    code, text = run_in({**slurm, "SLURM_JOB_ID": "4712", "SLURM_RESTART_COUNT": "1"}, SHORT, tmp_path)
    assert code == 0, text
    assert len(list(tmp_path.glob("runs/*/*/version_*"))) == 2  # another job's run is not taken over


def run_in(environment: dict[str, str], args: list[str], folder: Path) -> tuple[int, str]:
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_started, args=(args, str(folder), sender, environment))
    process.start()
    sender.close()
    assert receiver.poll(PATIENCE)
    found = receiver.recv()
    process.join()
    return found


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) == signals.on_signal
        assert signal.getsignal(signal.SIGTERM) != signals.on_signal
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_second_signal_stops_at_once(number: signal.Signals, status: int) -> None:
    with signals.handled():
        signals.defer(True)
        os.kill(os.getpid(), number)
        assert signals.pending() == number
        with pytest.raises(signals.Stopped) as stopped:
            signals.on_signal(number, None)
    assert stopped.value.code == status
    assert signals.pending() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_sweep_stops_its_runs(tmp_path: Path, number: signal.Signals, status: int) -> None:
    args = ["sweep", *COMMON[1:5], "--grid=optimizer.lr=1e-3", "--root=root", f"--trainer.max_epochs={LENGTH}"]
    command = [sys.executable, "-m", "filtune", *args, "--run.save_interval=100000", "--trainer.log_every_n_steps=1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=worker_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: is_training(tmp_path), process)
    process.send_signal(number)
    assert process.wait(PATIENCE) == status
    assert f"stopped by {number.name}" in process.stderr.read()
    assert list(tmp_path.rglob("last.ckpt"))
    assert not list(tmp_path.rglob("summary.json"))
