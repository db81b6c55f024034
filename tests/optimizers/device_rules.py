"""Every optimizer with every part, for the tests that only a device tells apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from filtune.optimizers import EKF, NGD, RENG, RING, SAM, SGD, AdaGrad, AdamW, Filtune, LoKO, RKalman, Sophia
from filtune.optimizers.kalman.covariance import Covariance
from filtune.optimizers.kalman.noise import ObservationNoise
from filtune.optimizers.kfac.inverses import InverseMethod

Make = Callable[..., Any]

FIRST: dict[str, Make] = {"adamw": AdamW, "sgd": SGD, "adagrad": AdaGrad, "sam": SAM, "sophia": Sophia}

FILTERS: dict[str, Make] = {
    "loko": partial(LoKO, dtype="float64"),
    "loko-logits": partial(LoKO, observation="logits", dtype="float64"),
    "r-kalman": partial(RKalman, dtype="float64"),
    "filtune": partial(Filtune, dtype="float64"),
    "filtune-top-1": partial(Filtune, top_k=1, dtype="float64"),
    **{name: partial(EKF, covariance=name, p0=0.01, dtype="float64") for name in Covariance.registry},
}

NATURAL: dict[str, Make] = {
    name: partial(rule, fisher_type="exact", skip=4) for name, rule in (("ngd", NGD), ("ring", RING), ("reng", RENG))
}

VARIANTS: dict[str, Make] = {
    **{f"loko, noise {name}": partial(LoKO, noise=name, dtype="float64") for name in ObservationNoise.registry},
    "loko, rank_tolerance": partial(LoKO, noise="softmax", rank_tolerance=0.01, dtype="float64"),
    "loko, posterior_mode": partial(LoKO, update="posterior_mode", dtype="float64"),
    "loko, process_noise": partial(LoKO, process_noise=1e-4, dtype="float64"),
    "loko, loop": partial(LoKO, vectorize=False, dtype="float64"),
    "r-kalman, neumann": partial(RKalman, neumann=True, dtype="float64"),
    "filtune, forgets": partial(Filtune, forgetting_factor=0.9, nis_window=5, dtype="float64"),
    "filtune, resets": partial(Filtune, head_reset_scale=1.0, p0_init="constant", dtype="float64"),
    "lofi, buffer": partial(EKF, covariance="low_rank", buffer_size=8, process_noise=1e-4, p0=0.01, dtype="float64"),
    **{
        f"ring, {name}": partial(RING, fisher_type="exact", skip=2, inverse_method=name)
        for name in InverseMethod.registry
    },
    **{f"ring, fisher {name}": partial(RING, fisher_type=name, skip=2) for name in ("mc", "empirical")},
    "ring, paper_exact": partial(RING, paper_exact=True),
}

ALL: dict[str, Make] = {**FIRST, **FILTERS, **NATURAL, **VARIANTS}
