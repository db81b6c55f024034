"""Runs a function in several processes of one group, over gloo on the CPU."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filtune.optimizers.kalman import jacobian

CONTEXT = multiprocessing.get_context("forkserver")
if "tests.cli.harness" not in sys.modules:  # it shares the server, and has it import all of this and more
    CONTEXT.set_forkserver_preload(["filtune.optimizers", "torch._dynamo"])  # the latter is what a first step imports


def _member(function: Callable, rank: int, world: int, store: str, args: tuple, output: Any) -> None:
    torch.set_num_threads(1)
    jacobian.FACTORED_PARAMETERS = 0  # as in conftest.py
    dist.init_process_group("gloo", f"file://{store}", timedelta(seconds=60), rank=rank, world_size=world)
    try:
        torch.manual_seed(0)
        answer = True, function(*args)
    except BaseException:
        answer = False, traceback.format_exc()
    output.send_bytes(pickle.dumps(answer))  # by value: tensors would otherwise be shared, and go with the process
    dist.destroy_process_group()


def together(world: int, function: Callable, *args: Any) -> list[Any]:
    """What ``function(*args)`` returns on every rank of a group of processes."""
    with tempfile.TemporaryDirectory() as folder:
        members = []
        for rank in range(world):
            receiver, sender = CONTEXT.Pipe(duplex=False)
            given = (function, rank, world, str(Path(folder) / "store"), args, sender)
            process = CONTEXT.Process(target=_member, args=given)
            process.start()
            sender.close()
            members.append((process, receiver))
        answers = [pickle.loads(receiver.recv_bytes()) for _, receiver in members]
        for process, _ in members:
            process.join()
    for worked, answer in answers:
        assert worked, answer
    return [answer for _, answer in answers]
