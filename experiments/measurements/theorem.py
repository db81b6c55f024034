r"""Theorem 4.3 of GRNG on a two-layer network, full batch: the error of every step against the bound of eq. 17.

Beside it the bound that the same proof gives where its terms are left to cancel. With e_k = yhat_k - y, the update of
appendix C and Hbar the mean Jacobian over the step,

    e_{k+1} = rho~ (G + rho~)^-1 e_k - (Hbar - H_k) H_k' (G + rho~)^-1 e_k, so
    |e_{k+1}| <= rho~ / (lambda_min + rho~) |e_k| + 2C/3 sqrt(lambda_min(G0)) |theta_{k+1} - theta_k|.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from filtune.optimizers import Gaussian
from torch import Tensor

from ..classes import find_class
from ..composition import Config, lookup
from . import two_layer
from .base import Log, Measurement
from .two_layer import TwoLayer

if TYPE_CHECKING:
    from filtune.datamodules import StreamDataModule

FLOOR = 1e-10
"""Errors below it are rounding, and left out."""

Step = dict[str, float]


class TheoremBounds(Measurement):
    """Measurement of the exact update with several dampings; every statement of the proof is checked at every step.

    The scalars are, for each rho, the curves ``error_rho_R`` and ``BOUND_rho_R``; ``C_drawn``, ``C_climbed``,
    ``C_certain`` and ``C_trajectory``, what is known of the constant of assumption 4.2 from random points of the ball,
    from the worst points found, as an upper bound, and on the trajectory; ``held_CLAIM``, the percentage of steps on
    which a statement holds; ``least_eigenvalue``; ``distance``, the largest in parts of the radius; ``error``, the
    largest after the last step; and ``steps``, of all dampings.

    Args:
        width: Hidden units.
        rhos: Dampings.
        steps: Most steps with each.
        draws: Random points of the ball's surface.
        climbs: Steps of the search for the worst point.
    """

    def __init__(
        self,
        width: int = 4096,
        rhos: list[float] | tuple[float, ...] = (0.0, 1e-4, 1e-2, 1.0),
        steps: int = 40,
        draws: int = 20,
        climbs: int = 40,
    ) -> None:
        if min(width, steps, draws, climbs) < 1 or not rhos:
            raise ValueError("measurement: TheoremBounds: width, steps, draws and climbs must be at least 1")
        self.width, self.rhos, self.steps, self.draws, self.climbs = width, rhos, steps, draws, climbs

    def measure(self, config: Config, data: StreamDataModule, seed: int, log: Log) -> None:
        """Follow the update with each damping."""
        net = network(data, self.width, seed)
        generator = torch.Generator().manual_seed(seed)
        start, radius = two_layer.least(net), two_layer.radius(net)
        log("C_drawn", two_layer.drawn(net, self.draws, generator))
        log("C_climbed", two_layer.climbed(net, self.climbs, generator))
        log("C_certain", two_layer.certain(net))
        log("least_eigenvalue", start)
        held, largest, distance, left = [], 0.0, 0.0, 0.0
        for rho in self.rhos:
            taken = follow(net, rho, self.steps)
            C = two_layer.stability(net, max(step["deviation"] for step in taken))
            largest, distance = max(largest, C), max(distance, *(step["distance"] / radius for step in taken))
            left = max(left, taken[-1]["next"])
            held += [check_claims(step, C, start, radius) for step in taken]
            log(f"error_rho_{rho:g}", taken[0]["error"], 0)
            for k, step in enumerate(taken, 1):
                log(f"error_rho_{rho:g}", step["next"], k)
                for name, bound in bounds(step, C, start).items():
                    log(f"{name}_rho_{rho:g}", bound, k)
        log("C_trajectory", largest)
        log("distance", distance)
        log("error", left)
        log("steps", len(held))
        for claim in held[0]:
            log(f"held_{claim}", 100 * sum(each[claim] for each in held) / len(held))


class TwoLayerFit(Measurement):
    """Training of the network of the theorem with the optimizer of the configuration, full batch.

    The scalar is ``error``, |yhat_k - y| before every step and after the last.

    Args:
        width: Hidden units.
        steps: Steps.
    """

    def __init__(self, width: int = 4096, steps: int = 40) -> None:
        if min(width, steps) < 1:
            raise ValueError("measurement: TwoLayerFit: width and steps must be at least 1")
        self.width, self.steps = width, steps

    def measure(self, config: Config, data: StreamDataModule, seed: int, log: Log) -> None:
        """Train the network and return its curves."""
        net = network(data, self.width, seed)
        W = net.W0.clone().requires_grad_()
        cls: Any = find_class("optimizer", config["optimizer"]["class_path"])
        optimizer = cls([W], **(lookup(config, "optimizer.init_args") or {}))
        for k in range(self.steps):
            seen = optimizer.step(lambda: Gaussian(net.outputs(W).unsqueeze(1)).observe(net.y))
            log("error", float((seen.outputs.detach()[:, 0] - net.y).norm()), k)
        log("error", float((net.outputs(W).detach() - net.y).norm()), self.steps)


def network(data: StreamDataModule, width: int, seed: int) -> TwoLayer:
    """Return the network on the first samples of a stream of images: centred, of unit length, classes as values.

    Mean pixels, and mean and deviation of the classes, are those of all training samples.
    """
    samples = [data.part.samples[int(row)] for row in range(len(data.part.samples))]
    X = torch.stack([sample["image"].flatten() for sample in samples]).double()
    y = torch.stack([torch.as_tensor(sample["label"]) for sample in samples]).double()
    rows = torch.as_tensor(data.part.rows)
    return two_layer.random_network((X - X.mean(0))[rows], ((y - y.mean()) / y.std())[rows], width, seed)


def bounds(step: Step, C: float, start: float) -> dict[str, float]:
    """Return bounds of the next error: eq. 17, the same with its terms left to cancel, and with |Hbar - H_k| known.

    Args:
        step: What was measured.
        C: Of assumption 4.2.
        start: lambda_min(G0).
    """
    kept = step["damping"] / (step["least"] + step["damping"]) * step["error"]
    growth = step["rho"] * step["kappa"] * step["error"] ** 2
    return {
        "paper": (1 + C) * ((2 + C) / (1 + C) + growth) * step["error"],
        "tight": kept + 2 * C / 3 * math.sqrt(start) * step["move"],
        "known": kept + step["change"] * step["move"],
    }


def check_claims(step: Step, C: float, start: float, radius: float) -> dict[str, bool]:
    """Return the statements of appendix C on a step, and whether they hold; rounding is allowed for.

    ``ball``: theta is within the ball; ``truncation``: |yhat_{k+1} - yhat_k| is at most the same with the inverse
    truncated; ``term_2``: |(2)| <= C|e|; ``term_3_paper``: |(3)| <= (1 + rho kappa)|e|^2 as in the paper, ``term_3``:
    |(3)| <= rho kappa |e|^3; ``term_4_paper`` and ``term_4``: C times these; ``paper``, ``tight``, ``known``: bounds.
    """
    e, kappa = step["error"], step["rho"] * step["kappa"]
    sides = {
        "ball": (step["distance"], radius),
        "truncation": (step["outputs_change"], step["outputs_change_truncated"]),
        "term_2": (step["term_2"], C * e),
        "term_3_paper": (step["term_3"], (1 + kappa) * e**2),
        "term_3": (step["term_3"], kappa * e**3),
        "term_4_paper": (step["term_4"], C * (1 + kappa) * e**2),
        "term_4": (step["term_4"], C * kappa * e**3),
        **{name: (step["next"], bound) for name, bound in bounds(step, C, start).items()},
    }
    return {claim: left <= right * (1 + 1e-9) + 1e-13 for claim, (left, right) in sides.items()}


def follow(net: TwoLayer, rho: float, steps: int) -> list[Step]:
    """Return what was measured of each step, until only rounding is left."""
    taken: list[Step] = []
    W: Tensor = net.W0
    while len(taken) < steps and not (taken and taken[-1]["next"] < FLOOR):
        V = two_layer.update(net, W, rho)
        taken.append({"rho": rho, **two_layer.measure(net, W, V, rho)})
        W = V
    return taken
