"""Range of initial variances in which a filter learns (LoKO, Table 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from ..classes import find_class
from ..composition import Config, assign, lookup
from .base import Log, Measurement

if TYPE_CHECKING:
    from filtune.datamodules import StreamDataModule

Holds = Callable[[float], bool]


class VarianceBounds(Measurement):
    """Search for the range of p0 in which a filter predicts a part of the first half of the stream.

    Below the range it is too slow for that, above it diverges. The search starts from the best p0 of a grid, goes
    outwards in factors of ten, and then by bisection in log p0. The scalars are ``p0_min`` and ``p0_max``; a bound
    that is not found within ``decades`` factors of ten has none.

    Args:
        grid: The values to start from.
        threshold: Part of the samples that must be predicted correctly.
        ratio: Precision of a bound, as a factor.
        decades: How many factors of ten beyond the best p0 a bound is looked for.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        grid: list[float] | tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0),
        threshold: float = 0.25,
        ratio: float = 1.35,
        decades: int = 4,
    ) -> None:
        if not grid or min(grid) <= 0 or not 0 < threshold <= 1 or ratio <= 1 or decades < 1:
            raise ValueError(
                "measurement: VarianceBounds needs a grid of positive values, 0 < threshold <= 1, ratio > 1 and "
                "decades >= 1"
            )
        self.grid, self.threshold, self.ratio, self.decades = sorted(grid), threshold, ratio, decades

    def measure(self, config: Config, data: StreamDataModule, seed: int, log: Log) -> None:
        """Search both bounds."""
        batches = list(data.train_dataloader())
        samples = max(1, sum(len(batch["label"]) for batch in batches) // 2)
        needed = math.ceil(self.threshold * samples)
        known: dict[float, bool] = {}

        def correct(p0: float) -> Iterator[bool]:
            return islice(predictions(config, data.task, batches, seed, {"optimizer.p0": p0}), samples)

        def learns(p0: float) -> bool:
            exponent = round(math.log10(p0), 6)
            if exponent not in known:
                known[exponent] = reaches(correct(10**exponent), samples, needed)
            return known[exponent]

        hits = {p0: sum(correct(p0)) for p0 in self.grid}
        known.update({round(math.log10(p0), 6): found >= needed for p0, found in hits.items()})
        best = max(hits, key=hits.__getitem__)
        for name, factor in (("p0_min", 0.1), ("p0_max", 10.0)):
            ends = bracket(learns, best, factor, self.decades) if hits[best] >= needed else None
            if ends is not None:
                log(name, bisect(learns, *ends, self.ratio))
        log("tries", len(known))


def predictions(config: Config, task: Any, batches: list[Any], seed: int, options: dict[str, Any]) -> Iterator[bool]:
    """Learn a stream; yield of each sample whether it was predicted correctly before it was learned from.

    Args:
        config: The configuration; of its sections ``model.backbone`` and ``optimizer`` count.
        task: The data module's task.
        batches: The stream.
        seed: Of the initial weights and, drawn next, of a random prior.
        options: Options over those of the configuration, by dotted key.
    """
    from filtune.lightning_modules.backbones import BackboneConfig, build_backbone
    from filtune.optimizers.likelihoods import likelihood_of

    config = deepcopy(config)
    for key, value in options.items():
        assign(config, key, value)
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneConfig(**config["model"]["backbone"]), task)
    cls: Any = find_class("optimizer", config["optimizer"]["class_path"])
    params = [param for param in backbone.parameters() if param.requires_grad]
    optimizer = cls(params, **(lookup(config, "optimizer.init_args") or {})).attach(backbone)
    likelihood = likelihood_of(task.kind)
    for batch in batches:
        inputs = backbone.preprocess(batch)
        seen = optimizer.step(
            lambda inputs=inputs, batch=batch: likelihood.of(backbone(inputs)).observe(batch["label"])
        )
        yield from (seen.outputs.argmax(-1) == seen.target).tolist()


def reaches(correct: Iterable[bool], samples: int, needed: int) -> bool:
    """Return whether at least ``needed`` of the first ``samples`` are correct; no more of them than needed are read."""
    hits = 0
    for seen, hit in enumerate(islice(correct, samples), 1):
        hits += hit
        if hits >= needed or hits + samples - seen < needed:
            break
    return hits >= needed


def bracket(holds: Holds, good: float, factor: float, steps: int) -> tuple[float, float] | None:
    """Return the last value that holds and the first that does not, of good, good * factor, good * factor^2, ...

    Args:
        holds: What is asked; true of ``good``, about which it is not asked.
        good: Where to start.
        factor: Above one to go up, below one to go down.
        steps: How many values to ask about.

    Returns:
        None where all of them hold.
    """
    for _ in range(steps):
        if not holds(good * factor):
            return good, good * factor
        good *= factor
    return None


def bisect(holds: Holds, good: float, bad: float, ratio: float) -> float:
    """Return a value that holds, where one at most ``ratio`` times as far towards ``bad`` does not.

    Args:
        holds: What is asked, true on the side of ``good`` and false on that of ``bad``, whichever is the larger.
        good: A value that holds.
        bad: A value that does not.
        ratio: How far apart the two may be at the end, above one.
    """
    while max(good / bad, bad / good) > ratio:
        middle = math.sqrt(good * bad)
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good
