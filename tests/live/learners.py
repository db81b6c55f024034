"""A small learner of digits, for the tests of learners."""

from __future__ import annotations

from typing import Any

import torch
from filtune.datamodules import DigitsDataModule
from filtune.optimizers import LoKO

from filtune import OnlineLearner

SMALL = {"name": "lenet_small", "pretrained": False}


def learner(optimizer: Any = LoKO, classes: Any = "abc", **options: Any) -> OnlineLearner:
    classes = list(classes) if classes != "open" else classes
    return OnlineLearner("classification", SMALL, optimizer, classes, image_shape=(1, 8, 8), **options)


def digits(count: int) -> list[torch.Tensor]:
    data = DigitsDataModule(max_samples=count)
    data.setup()
    return [batch["image"][0] for batch in data.train_dataloader()]


IMAGES = digits(40)


def same(first: OnlineLearner, second: OnlineLearner) -> bool:
    """Whether two learners have the same parameters, filter, metrics and waiting samples, bit for bit."""
    models = first.model.state_dict(), second.model.state_dict()
    equal = all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    states = (each.optimizer.state_dict()["state"] for each in (first, second))
    flat = [{f"{k}.{n}": v for k, values in state.items() for n, v in values.items()} for state in states]
    equal &= flat[0].keys() == flat[1].keys() and all(torch.equal(v, flat[1][k]) for k, v in flat[0].items())
    waiting = [each.pending.state() for each in (first, second)]
    equal &= repr(waiting[0]) == repr(waiting[1])
    return equal and first.metrics == second.metrics and first.drift == second.drift and first.classes == second.classes
