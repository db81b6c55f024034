"""A few steps of every optimizer with every part, on both small models, one sample and a batch."""

from __future__ import annotations

import copy
from typing import Any

import torch

from benchmarks.gpu.record import Record
from benchmarks.gpu.rules import ALL, MODELS, build, samples, step

SECONDS = 40
ALONE = False
SMOKE = True


def run_every(record: Record) -> None:
    """Record one entry per model, batch and optimizer."""
    for name, make_model in MODELS.items():
        torch.manual_seed(0)
        case = make_model(4).to(record.device).eval()
        for batch in (1, 3):
            data = samples(case, 4, batch, record.device, 6)
            for rule, make in ALL.items():
                if name == "lenet5" and rule in ("ekf full", "ekf block_per_tensor"):
                    continue  # 61,000 parameters: too many for a full matrix
                record.attempt(f"{name} batch {batch} {rule}", take_steps, make, copy.deepcopy(case), data)


def take_steps(make: Any, case: Any, data: Any) -> dict[str, Any]:
    """Return the loss before each step, whether all is finite, and where the diagnostics are."""
    torch.manual_seed(0)
    optimizer = build(make, case)
    losses = [step(optimizer, case, batch).nll() for batch in data]
    optimizer.predictive()
    stats = {name: float(value) for name, value in optimizer.stats.items()}
    finite = bool(torch.stack([p.isfinite().all() for p in case.parameters()]).all())
    elsewhere = sorted(
        name for name, value in optimizer.stats.items() if value.device.type != next(case.parameters()).device.type
    )
    return {
        "losses": [round(float(loss), 4) for loss in losses],
        "finite": finite,
        "nonfinite_steps": stats.get("nonfinite_steps"),
        "diverged": optimizer.check_divergence(),
        "diagnosis": optimizer.diagnose(),
        "stats_elsewhere": elsewhere,
    }
