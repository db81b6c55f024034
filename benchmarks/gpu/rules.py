"""The optimizers of the checks by name, and the small models they run on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from filtune.optimizers import EKF, NGD, RENG, RING, Categorical, Filtune, LoKO, Observation, OnlineOptimizer, RKalman
from filtune.optimizers.kalman.covariance import Covariance
from filtune.optimizers.kalman.noise import ObservationNoise
from filtune.optimizers.kfac.inverses import InverseMethod
from torch import Tensor, nn

from benchmarks.methods import OPTIMIZERS, Make
from benchmarks.models import Case, lenet5, small_transformer


def _named(*names: str) -> dict[str, Make]:
    return {name: OPTIMIZERS[name].make for name in names}


FIRST = _named("adamw", "sgd", "adagrad", "sam", "sophia")
FILTERS = _named("loko", "loko-logits", "r-kalman", "filtune", "filtune-top-1", "filtune-top-2", "low-rank")
NATURAL: dict[str, Make] = {**_named("ring", "reng"), "ngd": partial(NGD, skip=8)}

VARIANTS: dict[str, Make] = {
    **{f"ekf {name}": partial(EKF, covariance=name, p0=0.01) for name in Covariance.registry},
    **{f"ekf {name} logits": partial(EKF, covariance=name, p0=0.01, observation="logits") for name in ("diagonal",)},
    **{f"loko noise {name}": partial(LoKO, noise=name) for name in ObservationNoise.registry},
    "loko posterior_mode": partial(LoKO, update="posterior_mode"),
    "loko softmax rank_tolerance": partial(LoKO, noise="softmax", rank_tolerance=0.01),
    "loko process_noise": partial(LoKO, process_noise=1e-4),
    "loko float64": partial(LoKO, dtype="float64"),
    "loko loop": partial(LoKO, vectorize=False),
    "r-kalman neumann": partial(RKalman, neumann=True),
    "filtune all rows": partial(Filtune, rows_per_sample=0),
    "filtune buffer 0": partial(Filtune, buffer_size=0),
    "filtune forgets": partial(Filtune, forgetting_factor=0.9, nis_window=5),
    "filtune resets": partial(Filtune, head_reset_scale=1.0),
    "filtune uniform": partial(Filtune, p0_init="uniform"),
    "low-rank buffered": partial(EKF, covariance="low_rank", rank=10, buffer_size=5, process_noise=1e-4),
    **{
        f"ring {inverse} {fisher}": partial(RING, skip=2, inverse_method=inverse, fisher_type=fisher)
        for inverse in InverseMethod.registry
        for fisher in ("mc", "exact", "empirical")
    },
    "ring paper_exact": partial(RING, paper_exact=True),
    "reng eigen": partial(RENG, skip=2, inverse_method="eigen"),
    "ngd loss schedule": partial(NGD, damping_schedule="loss"),
}

ALL: dict[str, Make] = {**FIRST, **FILTERS, **NATURAL, **VARIANTS}


def lenet(outputs: int) -> Case:
    """Return LeNet-5, all weights trained."""
    return lenet5(outputs, None, 0)


MODELS: dict[str, Callable[[int], Case]] = {"lenet5": lenet, "transformer": small_transformer}


def samples(case: Case, outputs: int, batch: int, device: torch.device, count: int) -> list[tuple[Any, Tensor]]:
    """Return so many batches on the device, the same for every caller; labels follow from the inputs."""
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(count):
        inputs = case.sample(generator, batch)
        values = inputs["input_ids"] if isinstance(inputs, dict) else (inputs.flatten(1) > 0).long()
        target = values.sum(1) % outputs
        found.append((move(inputs, device), target.to(device)))
    return found


def move(inputs: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Return inputs on a device, floating ones in a type."""
    if isinstance(inputs, dict):
        return {name: move(value, device, dtype) for name, value in inputs.items()}
    return inputs.to(device, dtype) if dtype and inputs.is_floating_point() else inputs.to(device)


def step(
    optimizer: OnlineOptimizer, model: nn.Module, batch: tuple[Any, Tensor], autocast: bool = False
) -> Observation:
    """Take one step, in bfloat16 where asked for."""

    def closure() -> Observation:
        with torch.autocast(batch[1].device.type, torch.bfloat16, enabled=autocast):
            outputs = model(batch[0])
        return Categorical(outputs).observe(batch[1])

    return optimizer.step(closure)


def build(make: Make, case: Case, **options: Any) -> OnlineOptimizer:
    """Return an optimizer over the trained parameters that watches the model."""
    return make([p for p in case.parameters() if p.requires_grad], **options).attach(case)
