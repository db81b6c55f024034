"""Host synchronisations of a step, with the line of each: steady steps, without reading the diagnostics."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.record import Record
from benchmarks.gpu.rules import FILTERS, FIRST, MODELS, NATURAL, VARIANTS, build, samples, step

SECONDS = 40
ALONE = False
SMOKE = True

WARM, COUNTED = 24, 40
READS = ("_local_scalar_dense", "nonzero", "_linalg_eigh", "_linalg_svd", "_unique2", "is_nonzero")
"""Operations that make the host wait for a CUDA device; counted by name where there is none."""


class Reads(TorchDispatchMode):
    """Counts operations that would wait for a CUDA device, by line."""

    def __init__(self, lines: Counter[str]) -> None:
        super().__init__()
        self.lines = lines

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note where it was called."""
        if func.overloadpacket.__name__ in READS:
            self.lines[f"{func.overloadpacket.__name__} {own_line()}"] += 1
        return func(*args, **(kwargs or {}))


def own_line() -> str:
    """Return the innermost lines of the project on the stack, and the one below them."""
    frames = [f for f in traceback.extract_stack() if "benchmarks/gpu/parts/syncs" not in f.filename]
    last = max((i for i, f in enumerate(frames) if is_own(f.filename)), default=len(frames) - 1)
    shown = [f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.line}" for f in frames[last : last + 2]]
    outer = [f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in frames[max(0, last - 2) : last]]
    return " < ".join([" > ".join(shown), *reversed(outer)])


def is_own(filename: str) -> bool:
    """Return whether a file is the project's."""
    return "site-packages" not in filename and any(
        f"/{folder}/" in filename for folder in ("optimizers", "lightning_modules", "datamodules", "filtune")
    )


@contextmanager
def counting(cuda: bool) -> Iterator[Counter[str]]:
    """Count host synchronisations by line."""
    lines: Counter[str] = Counter()
    if not cuda:
        with Reads(lines):
            yield lines
        return

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing CUDA" in str(message):
            lines[own_line()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lines
        finally:
            torch.cuda.set_sync_debug_mode("default")


def run_syncs(record: Record) -> None:
    """Record one entry per model, batch and optimizer, and a table of totals."""
    rules = {**FIRST, **FILTERS, **NATURAL, **VARIANTS}
    table: dict[str, float] = {}
    for name, make_model in MODELS.items():
        torch.manual_seed(0)
        case = make_model(4).to(record.device).eval()
        for batch in (1, 3) if not record.smoke else (1,):
            data = samples(case, 4, batch, record.device, 8)
            for rule, make in rules.items():
                if rule in ("ekf full", "ekf block_per_tensor") and name == "lenet5":
                    continue
                found = record.attempt(
                    f"{name} batch {batch} {rule}", count_steps, make, copy.deepcopy(case), data, record
                )
                if found is not None:
                    table[f"{name} batch {batch} {rule}"] = found["per_step"]
            floor = record.attempt(f"{name} batch {batch} model alone", count_model, copy.deepcopy(case), data, record)
            table[f"{name} batch {batch} model alone"] = floor["per_step"]
    record.put("table", {name: value for name, value in table.items() if value})


def count_steps(make: Callable[..., Any], case: Any, data: Any, record: Record) -> dict[str, Any]:
    """Return the synchronisations per step, of lazy steps and refreshes apart, with the predictive read as in a run."""
    torch.manual_seed(0)
    optimizer = build(make, case)
    warm, counted = (3, 3) if record.quick else (WARM, COUNTED)
    for k in range(warm):
        step(optimizer, case, data[k % len(data)])
    lines: Counter[str] = Counter()
    steps_with: Counter[int] = Counter()
    for k in range(counted):
        with counting(record.cuda) as found:
            step(optimizer, case, data[k % len(data)])
            optimizer.predictive()
        lines += found
        steps_with[sum(found.values())] += 1
    return {
        "per_step": sum(lines.values()) / counted,
        "steps_with": dict(sorted(steps_with.items())),
        "lines": dict(lines.most_common(12)),
    }


def count_model(case: Any, data: Any, record: Record) -> dict[str, Any]:
    """Return the synchronisations of the model's own forward and backward pass."""
    for batch in data[:3]:
        case(batch[0]).sum().backward()
    with counting(record.cuda) as lines:
        for batch in data:
            case(batch[0]).sum().backward()
    return {"per_step": sum(lines.values()) / len(data), "lines": dict(lines.most_common(6))}
