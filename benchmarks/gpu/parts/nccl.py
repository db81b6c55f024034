"""The distributed path: NCCL with one process that believes in several, and two gloo processes on one device."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from filtune.optimizers.distributed import Ranks

from benchmarks.gpu.record import Record
from benchmarks.gpu.rules import FILTERS, FIRST, MODELS, NATURAL, build, samples, step

SECONDS = 40
ALONE = False
SMOKE = True

RULES = {**FIRST, **FILTERS, **NATURAL}
CHECKED = ("adamw", "loko", "r-kalman", "filtune", "low-rank", "ring", "ngd")


class Several(int):
    """A number of processes that is one, and says that it is more, so that every collective is called."""

    def __eq__(self, other: object) -> bool:
        """Return whether the other is of this kind."""
        return isinstance(other, Several)

    def __gt__(self, other: int) -> bool:
        """Return whether the other is at most one."""
        return int(other) <= 1

    __hash__ = int.__hash__


def run_nccl(record: Record) -> None:
    """Record one entry per optimizer and way."""
    backend = "nccl" if record.cuda else "gloo"
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    dist.init_process_group(backend, world_size=1, rank=0)
    try:
        case = MODELS["transformer"](4).to(record.device).eval()
        data = samples(case, 4, 2, record.device, 6)
        record.attempt("collectives", collectives, record.device)
        for rule in CHECKED:
            record.attempt(f"{backend}, one process, {rule}", one_process, rule, case, data)
    finally:
        dist.destroy_process_group()
    record.attempt("gloo, two processes on the device", two_processes, record)


def collectives(device: torch.device) -> dict[str, Any]:
    """Return whether every collective of the project gives back what it was given."""
    ranks = Ranks(Several(1), 0)
    x = torch.randn(5, 3, device=device)
    labels = torch.arange(5, device=device)
    joined = ranks.gather([x, labels], [5])
    ranks.check([x])
    return {
        "gather": bool(torch.equal(joined[0], x) and torch.equal(joined[1], labels)),
        "sum": bool(torch.equal(ranks.sum(x), x)),
        "integers": ranks.integers(7, device),
    }


def one_process(rule: str, case: Any, data: Any) -> dict[str, Any]:
    """Return how far training through the collectives is from training without."""
    ends = []
    for several in (False, True):
        torch.manual_seed(0)
        own = copy.deepcopy(case)
        ranks = Ranks(Several(1), 0) if several else Ranks()
        with mock.patch.object(Ranks, "current", classmethod(lambda cls, ranks=ranks: ranks)):
            optimizer = build(RULES[rule], own)
            for batch in data:
                step(optimizer, own, batch)
            optimizer.state_dict()
            optimizer.check_ranks()
        ends.append(torch.cat([p.detach().flatten() for p in own.parameters() if p.requires_grad]))
    return {"equal": bool(torch.equal(*ends)), "difference": float((ends[0] - ends[1]).abs().max())}


def two_processes(record: Record) -> dict[str, Any]:
    """Return how far two processes with a sample each are from one process with both."""
    target = Path(record.path).with_suffix(".two")
    port = free_port()
    mp.spawn(worker, (port, record.device.type, str(target)), nprocs=2)
    found = torch.load(target, weights_only=True)
    target.unlink()
    return found


def worker(rank: int, port: int, device_name: str, target: str) -> None:
    """Train in one of two processes, and on rank 0 alone for comparison."""
    device = torch.device(device_name)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.manual_seed(0)
    case = MODELS["transformer"](4).to(device).eval()
    data = samples(case, 4, 2, device, 6)
    found = {}
    dist.init_process_group("gloo", world_size=2, rank=rank)
    for rule in CHECKED:
        try:
            ends = train_shared(rule, case, data, rank)
            alone = train_alone(rule, case, data)
            found[rule] = {"difference": float((ends - alone).abs().max()), "scale": float(alone.abs().max())}
        except RuntimeError as error:
            found[rule] = {"error": str(error).splitlines()[0][:300]}
    if rank == 0:
        torch.save(found, target)
    dist.barrier()
    dist.destroy_process_group()


def train_shared(rule: str, case: Any, data: Any, rank: int) -> torch.Tensor:
    """Return the trained parameters after steps with one sample of this rank each."""
    torch.manual_seed(0)
    own = copy.deepcopy(case)
    optimizer = build(RULES[rule], own)
    for inputs, target in data:
        part = {name: value[rank : rank + 1] for name, value in inputs.items()}
        step(optimizer, own, (part, target[rank : rank + 1]))
    return torch.cat([p.detach().flatten() for p in own.parameters() if p.requires_grad])


def train_alone(rule: str, case: Any, data: Any) -> torch.Tensor:
    """Return the trained parameters after steps of one process with all samples."""
    torch.manual_seed(0)
    own = copy.deepcopy(case)
    with mock.patch.object(Ranks, "current", classmethod(lambda cls: Ranks())):
        optimizer = build(RULES[rule], own)
        for batch in data:
            step(optimizer, own, batch)
    return torch.cat([p.detach().flatten() for p in own.parameters() if p.requires_grad])


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
