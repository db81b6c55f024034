"""A stream, a model, an optimizer: what every experiment does, in a plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
import yaml
from torch import Tensor

import datamodules
import optimizers
from benchmarks.papers.weights import initialise
from cli import CONFIGS
from lightning_modules.backbones import BackboneConfig, build_backbone
from lightning_modules.backbones.base import Backbone
from optimizers import Categorical, OnlineOptimizer

Pairs = list[tuple[Any, Tensor]]

BACKBONES = {"mnist": "lenet5", "digits": "lenet5", "sst2": "minilm"}
POINTS = 40
"""Points of a curve."""


@dataclass(frozen=True)
class Problem:
    """A stream of a task, and the backbone that is to learn it.

    Attributes:
        task: ``mnist``, ``digits`` or ``sst2``.
        samples: Length of the stream.
        source: Hub id or local folder of the data; as in the task's configuration by default.
        backbone: Name or folder of the backbone; as in its configuration by default.
        test_samples: How many samples of the test split are predicted at the end; all by default.
        weights: How LeNet-5's weights start, see :func:`initialise`; torch's own way by default.
    """

    task: str
    samples: int
    source: str | None = None
    backbone: str | None = None
    test_samples: int | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Rule:
    """An optimizer by its name in :mod:`optimizers`, and its arguments."""

    name: str
    arguments: dict[str, Any]

    def build(self, backbone: Backbone) -> OnlineOptimizer:
        """The optimizer over the trainable parameters."""
        params = [param for param in backbone.parameters() if param.requires_grad]
        return getattr(optimizers, self.name)(params, **self.arguments).attach(backbone)


@lru_cache(maxsize=8)
def load(task: str, source: str | None, samples: int, test_samples: int | None, seed: int) -> tuple[Any, list, list]:
    """The task, the stream in batches of one, and the test split in larger batches, all as they are stored."""
    part = yaml.safe_load((CONFIGS / "task" / f"{task}.yaml").read_text())["data"]
    arguments = {**part.get("init_args", {}), **({"source": source} if source else {})}
    module = getattr(datamodules, part["class_path"].rpartition(".")[2])(
        **arguments, max_samples=samples, max_val_samples=test_samples, seed=seed
    )
    module.setup()
    return module.task, list(module.train_dataloader()), list(module.val_dataloader())


def prepare(problem: Problem, seed: int) -> tuple[Backbone, Pairs, Pairs]:
    """The backbone in its initial state, the stream and the test batches as inputs and labels.

    The seed fixes the order of the stream, the initial weights and, drawn next, a random prior.
    """
    task, stream, test = load(problem.task, problem.source, problem.samples, problem.test_samples, seed)
    config = yaml.safe_load((CONFIGS / "backbone" / f"{BACKBONES[problem.task]}.yaml").read_text())["model"]["backbone"]
    torch.manual_seed(seed)
    name = {"name": problem.backbone} if problem.backbone else {}
    backbone = build_backbone(BackboneConfig(**{**config, **name}), task)
    if problem.weights:
        initialise(backbone, problem.weights)
    return backbone, pairs(backbone, stream), pairs(backbone, test)


def pairs(backbone: Backbone, batches: list[dict[str, Any]]) -> Pairs:
    """Inputs and labels of raw batches."""
    return [(backbone.preprocess(batch), batch["label"]) for batch in batches]


def learn(backbone: Backbone, optimizer: OnlineOptimizer, stream: Pairs) -> Iterator[bool]:
    """Learn the stream a sample at a time; say of each whether it was predicted, before it was learnt from."""
    for inputs, label in stream:
        observation = optimizer.step(lambda inputs=inputs, label=label: Categorical(backbone(inputs)).observe(label))
        yield bool((observation.outputs.argmax(-1) == label).all())


@torch.no_grad()
def accuracy(backbone: Backbone, batches: Pairs) -> float:
    """Percentage of samples that are predicted."""
    correct = sum(int((backbone(inputs).argmax(-1) == label).sum()) for inputs, label in batches)
    return 100 * correct / sum(len(label) for _, label in batches)


def follow(backbone: Backbone, optimizer: OnlineOptimizer, stream: Pairs, test: Pairs) -> dict[str, Any]:
    """Learn a stream: average online accuracy, its curve, test accuracy, and what went wrong, if anything."""
    correct = torch.tensor(list(learn(backbone, optimizer, stream)), dtype=torch.float64)
    average = 100 * correct.cumsum(0) / torch.arange(1, len(correct) + 1)
    steps = torch.linspace(0, len(correct), POINTS + 1).long()[1:]
    return {
        "online": float(average[-1]),
        "test": accuracy(backbone, test),
        "steps": steps.tolist(),
        "curve": average[steps - 1].tolist(),
        "failure": optimizer.failure(),
    }


def run(problem: Problem, rule: Rule, seed: int) -> dict[str, Any]:
    """One run from its beginning to its end."""
    backbone, stream, test = prepare(problem, seed)
    return follow(backbone, rule.build(backbone), stream, test)


def settings(problem: Problem, rule: Rule, seed: int) -> dict[str, Any]:
    """What a run depends on."""
    return {**asdict(problem), "optimizer": rule.name, "arguments": rule.arguments, "seed": seed}
