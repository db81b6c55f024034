"""Fifty steps of every optimizer: the device in float32, TF32 and bfloat16 against float64 on the CPU.

The distance is that of the trained parameters from the reference's, relative to how far the reference has moved. Beside
it stands that of float32 on the CPU, the yardstick for float32 on the device.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.record import Record
from benchmarks.gpu.rules import FILTERS, FIRST, MODELS, NATURAL, Make, build, move, samples, step

SECONDS = 60
ALONE = False
SMOKE = False

STEPS = 50

FIXED: dict[str, dict[str, Any]] = {
    "loko": {"p0_init": "constant"},
    "loko-logits": {"p0_init": "constant", "p0": 0.02},
    "r-kalman": {"p0": 0.05},
    "ngd": {"fisher_type": "exact"},
    "ring": {"fisher_type": "exact"},
    "reng": {"fisher_type": "exact"},
}
"""Options without which a random draw would differ between types or devices."""


def run_agreement(record: Record) -> None:
    """Record one entry per model and optimizer."""
    cpu = torch.device("cpu")
    for name, make_model in MODELS.items():
        torch.manual_seed(0)
        case = make_model(4).eval()
        data = samples(case, 4, 1, cpu, 5 if record.quick else STEPS)
        for rule, make in {**FIRST, **FILTERS, **NATURAL}.items():
            if rule == "sophia":
                continue  # its labels are drawn on the device
            chosen = partial(make, **FIXED.get(rule, {}))
            record.attempt(f"{name} {rule}", measure_agreement, chosen, rule in FILTERS, case, data, record)


def measure_agreement(make: Make, is_filter: bool, case: Any, data: Any, record: Record) -> dict[str, Any]:
    """Return the distances from the float64 reference, and the largest difference of the losses."""
    cpu = torch.device("cpu")
    double = partial(make, dtype="float64") if is_filter else make
    before, reference, losses = train_copy(double, case, data, cpu, torch.float64)
    moved = (reference - before).norm()
    found: dict[str, Any] = {"moved": float(moved), "first_loss": losses[0], "last_losses": sum(losses[-10:]) / 10}
    runs = {"cpu float32": (cpu, torch.float32, False, False), "float32": (record.device, torch.float32, False, False)}
    if record.cuda:
        runs["tf32"] = (record.device, torch.float32, True, False)
    runs["bf16"] = (record.device, torch.float32, False, True)
    if is_filter:
        runs["float64"] = (record.device, torch.float64, False, False)
    for name, (device, dtype, tf32, autocast) in runs.items():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        chosen = double if dtype == torch.float64 else make
        _, after, seen = train_copy(chosen, case, data, device, dtype, autocast)
        found[name] = {
            "distance": float((after - reference).norm() / moved),
            "loss_difference": max(abs(a - b) for a, b in zip(seen, losses, strict=True)),
        }
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    return found


def train_copy(
    make: Make, case: Any, data: Any, device: torch.device, dtype: torch.dtype, autocast: bool = False
) -> tuple[Tensor, Tensor, list[float]]:
    """Return the trained parameters before and after, in float64, and the losses before every step."""
    torch.manual_seed(0)
    own = copy.deepcopy(case).to(device, dtype)
    before = parameters(own)
    optimizer, losses = build(make, own), []
    for inputs, target in data:
        batch = move(inputs, device, dtype), target.to(device)
        losses.append(step(optimizer, own, batch, autocast).nll())
    return before, parameters(own), torch.stack(losses).double().tolist()


def parameters(model: Any) -> Tensor:
    """Return the trained parameters, flat, in float64 on the CPU."""
    return torch.cat([p.detach().flatten().double().cpu() for p in model.parameters() if p.requires_grad])
