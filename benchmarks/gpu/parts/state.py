"""Saved state between devices: device to CPU to device, bit for bit, and training that goes on from it."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.record import Record
from benchmarks.gpu.rules import FILTERS, FIRST, MODELS, NATURAL, VARIANTS, build, move, samples, step

SECONDS = 20
ALONE = False
SMOKE = True


def run_state(record: Record) -> None:
    """Record one entry per optimizer."""
    case = MODELS["transformer"](4).to(record.device).eval()
    data = samples(case, 4, 1, record.device, 6)
    for rule, make in {**FIRST, **FILTERS, **NATURAL, **VARIANTS}.items():
        record.attempt(rule, travel, make, copy.deepcopy(case), data)


def travel(make: Any, case: Any, data: Any) -> dict[str, Any]:
    """Train, save, load on the CPU, save, load on the device; compare all tensors, and the steps that follow."""
    torch.manual_seed(0)
    device = next(case.parameters()).device
    first = build(make, case)
    for batch in data[:3]:
        step(first, case, batch)
    saved = through_file(first.state_dict())

    on_cpu = copy.deepcopy(case).cpu()
    second = build(make, on_cpu)
    second.load_state_dict(saved)
    step_on_cpu = copy.deepcopy(on_cpu)
    third_case = copy.deepcopy(on_cpu).to(device)
    third = build(make, third_case)
    third.load_state_dict(through_file(second.state_dict()))
    equal = differing_paths(first.state_dict(), third.state_dict())

    # a step on the CPU, which shows that nothing of the state was left on the device
    other = build(make, step_on_cpu)
    other.load_state_dict(saved)
    step(other, step_on_cpu, (move(data[3][0], torch.device("cpu")), data[3][1].cpu()))

    follow = []
    for optimizer, model in ((first, case), (third, third_case)):
        torch.manual_seed(1)
        for batch in data[3:]:
            step(optimizer, model, batch)
        follow.append(torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    return {
        "differing": equal,
        "goes_on_equal": bool(torch.equal(*follow)),
        "largest_difference": float((follow[0] - follow[1]).abs().max()),
    }


def through_file(state: Any) -> Any:
    """Return a state saved to a file and loaded on the CPU, weights only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def flatten(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries and lists by path."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flatten(value, f"{path}/{key}")
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from flatten(value, f"{path}/{i}")
    else:
        yield path, tree


def differing_paths(before: Any, after: Any) -> list[str]:
    """Return the paths at which two states differ in value, type or device."""
    one, two = dict(flatten(before)), dict(flatten(after))
    differing = [path for path in one.keys() ^ two.keys() if "figures" not in path]
    for path in one.keys() & two.keys():
        a, b = one[path], two[path]
        if isinstance(a, Tensor):
            same = isinstance(b, Tensor) and a.dtype == b.dtype and a.device == b.device
            same = same and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
            note = "" if not isinstance(b, Tensor) else f" {a.dtype} {a.device} -> {b.dtype} {b.device}"
        else:
            same, note = a == b or a != a, f" {a} -> {b}"
        if not same:
            differing.append(path + note)
    return sorted(differing)[:10]
