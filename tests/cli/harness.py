"""Runs the command line in processes of its own, which may be killed."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from filtune.experiments import runs
from filtune.lightning_modules import locks
from filtune.lightning_modules.checkpoints import CONTENTS
from filtune.lightning_modules.locks import FolderLock
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tests import conftest  # noqa: F401  # its settings are those of the server, too

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
SERVED = """
    filtune.cli filtune.training filtune.option_help filtune.experiments.worker filtune.reports.compare
    filtune.exports.commands filtune.exports.export filtune.exports.predict
    filtune.lightning_modules.backbones.lenet filtune.lightning_modules.backbones.image
    filtune.lightning_modules.backbones.text filtune.lightning_modules.backbones.timm_models
    attrs matplotlib.backends.backend_agg timm torch._dynamo torch.utils.serialization.config torch.utils.tensorboard
    tensorboard.plugins.hparams.api_pb2 tensorboard.plugins.hparams.metadata
    transformers.models.bert.modeling_bert transformers.models.bert.tokenization_bert
    sklearn.datasets.data sklearn.datasets.descr
    tests.cli.harness
"""
"""What a run imports. A server that has it and used no threads forks each run in a fraction of a second."""

CONTEXT.set_forkserver_preload(SERVED.split())

PATIENCE = 600
"""Seconds after which a run that does not end is killed."""


class KillAt(pl.Callback):
    """Kills its own process with SIGKILL at a given moment.

    Args:
        moment: ``batch``, ``epoch`` (after the last batch, before the validation) or ``validation``.
        step: Global step at which it strikes.
    """

    def __init__(self, moment: str, step: int) -> None:
        self.moment, self.step = moment, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.moment == "batch" and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.moment == "epoch" and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.moment == "validation" and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def _run(args: list[str], folder: str, output: Any) -> None:
    """Run ``filtune args``, or a script where the first argument is one, and send exit code and text."""
    gc.freeze()  # what the server has imported is not searched for garbage
    # processes of its own are forked, as those of any run; another server would import everything for one of them
    multiprocessing.set_start_method("fork", force=True)
    os.chdir(folder)
    torch.set_num_threads(1)
    text, code = io.StringIO(), 0
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        from filtune.cli import main

        try:
            if args[0].endswith(".py"):
                runpy.run_path(args[0], run_name="__main__")
            else:
                main(args)
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException as error:
            text.write(f"{type(error).__name__}: {error}")
            code = 1
    threads = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]
    if dist.is_initialized() or "pt_gloo_runloop" in threads:
        text.write(f"the process group is left to the interpreter's end: {threads}")
        code = 1
    output.send((code, text.getvalue()))


class ChangeAParameter(pl.Callback):
    """Changes one bit of one parameter on one rank.

    Args:
        step: Global step at which it strikes.
        rank: Where.
    """

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            param = next(p for p in pl_module.parameters() if p.requires_grad)
            param.data.view(-1).view(torch.int32)[0] ^= 1


class FailAt(ChangeAParameter):
    """Fails on one rank, with a user error."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            raise ValueError(f"rank {self.rank} alone cannot go on")


class StopAt(ChangeAParameter):
    """Sends SIGTERM to one rank, within a step."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_end(self, *_: Any) -> None:
        """Leave the parameters alone."""


def _run_rank(args: list[str], folder: str, output: Any, environment: dict[str, str], patience: float) -> None:
    os.environ.update(environment)
    FolderLock.acquire.__defaults__ = (patience,)
    rank_zero_only.rank = int(environment["RANK"])  # read when the server imported it
    _run(args, folder, output)


def _run_with(args: list[str], folder: str, output: Any, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    _run(args, folder, output)


def run(args: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run ``filtune args`` in a folder: exit code (-9 if it was killed) and what it printed."""
    return _finish(*_start(_run, args, folder))


def run_ranks(args: Sequence[str], folder: Path, ranks: int, patience: float = locks.PATIENCE) -> list[tuple[int, str]]:
    """Run ``filtune args`` in several processes, with the environment that torchrun gives them.

    Args:
        args: The command and its options.
        folder: The folder in which it runs.
        ranks: Number of processes.
        patience: Seconds to wait for the lock of a folder.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "TORCHELASTIC_RUN_ID": "test",
    }
    environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    started = [_start(_run_rank, args, folder, environment, patience) for environment in environments]
    return [_finish(*process) for process in started]


@functools.cache
def serve() -> None:
    """Start the server in the root folder, where it finds the tests; once, before there are other threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        multiprocessing.forkserver.ensure_running()


def _start(target: Any, args: Sequence[str], folder: Path, *more: Any) -> tuple[Any, Any]:
    serve()
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=target, args=(list(args), str(folder), sender, *more))
    process.start()
    sender.close()
    return process, receiver


def _finish(process: Any, receiver: Any) -> tuple[int, str]:
    if not receiver.poll(PATIENCE):
        process.kill()
    try:
        code, text = receiver.recv()
    except EOFError:
        code, text = None, ""
    process.join()
    return (process.exitcode or 0 if code is None else code), text


class Worker:
    """A run of a study or a sweep, in place of ``subprocess.Popen``: forked from the server, not started anew."""

    def __init__(self, command: Sequence[str], *, stdout: Any, env: dict[str, str], **_: Any) -> None:
        args = command[command.index("filtune.experiments.worker") + 1 :]
        own = {name: value for name, value in env.items() if name.startswith("FILTUNE_")}
        self._process, self._receiver = _start(_run_with, args, Path.cwd(), own)
        self._stdout = stdout

    def wait(self) -> int:
        code, text = _finish(self._process, self._receiver)
        self._stdout.write(text.encode())
        return code

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Fork the runs of studies and sweeps; that they end with their parent is tested with real ones (test_killed)."""
    serve()
    with pytest.MonkeyPatch.context() as patch:
        fake = SimpleNamespace(Popen=Worker, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
        patch.setattr(runs, "subprocess", fake)
        yield


def only_run(folder: Path) -> Path:
    """The folder of the only run below ``folder``."""
    (config,) = folder.rglob("config.yaml")
    return config.parent


def result(run_folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished run's summary without times and places, and its last checkpoint."""
    summary = json.loads((run_folder / "summary.json").read_text())
    excluded = ("peak_memory_bytes", "commit", "versions", "event_bytes", "checksum")
    for name in [key for key in summary if "seconds" in key or key in excluded]:
        summary.pop(name)
    return summary, torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)


def as_earlier(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as an earlier release wrote it: without the list of its contents, so that it may be changed."""
    checkpoint.pop(CONTENTS, None)
    checkpoint["filtune"].pop("format", None)
    return checkpoint


def identical(a: Any, b: Any) -> bool:
    """Whether two trees of tensors and plain values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(identical(x, y) for x, y in zip(a, b, strict=True))
    return a == b
