"""A stream, a model, an optimizer: what every experiment does, in a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import torch
import yaml
from filtune.experiments.composition import CONFIGS
from filtune.lightning_modules.backbones import BackboneConfig, build_backbone
from filtune.lightning_modules.backbones.base import Backbone
from filtune.lightning_modules.optimization import Schedule
from filtune.optimizers import Categorical, Gaussian, Likelihood, Observation, OnlineOptimizer
from torch import Tensor

from benchmarks.papers.weights import initialise
from filtune import datamodules, optimizers

Pairs = list[tuple[Any, Tensor]]

Evaluate = Callable[[], dict[str, float]]

BACKBONES = {"mnist": "lenet5", "digits": "lenet5", "sst2": "minilm", "stsb": "minilm"}
POINTS = 40
"""Points of a curve."""


@dataclass(frozen=True)
class Problem:
    """A stream of a task, and the backbone that is to learn it.

    Attributes:
        task: ``mnist``, ``digits``, ``sst2`` or ``stsb``.
        samples: Length of the stream.
        source: Hub id or local folder of the data; as in the task's configuration by default.
        backbone: Name or folder of the backbone; as in its configuration by default.
        test_samples: How many samples of the test split are predicted at the end; all by default.
        weights: How LeNet-5's weights start, see :func:`initialise`; torch's own way by default.
        batch_size: Samples of a step.
        backbone_args: What differs from the backbone's configuration, such as its ``targets``.
    """

    task: str
    samples: int
    source: str | None = None
    backbone: str | None = None
    test_samples: int | None = None
    weights: str | None = None
    batch_size: int = 1
    backbone_args: dict[str, Any] = field(default_factory=dict)

    @property
    def likelihood(self) -> type[Likelihood]:
        """Of the targets: classes, or values."""
        return Gaussian if self.task == "stsb" else Categorical


@dataclass(frozen=True)
class Rule:
    """An optimizer by its name in :mod:`filtune.optimizers`, its arguments, and the steps of its linear warm-up."""

    name: str
    arguments: dict[str, Any]
    warmup: int = 0

    def build(self, backbone: Backbone) -> OnlineOptimizer:
        """The optimizer over the trainable parameters."""
        params = [param for param in backbone.parameters() if param.requires_grad]
        return getattr(optimizers, self.name)(params, **self.arguments).attach(backbone)


@lru_cache(maxsize=8)
def load(
    task: str, source: str | None, samples: int, test_samples: int | None, seed: int, batch_size: int = 1
) -> tuple[Any, list, list]:
    """The task, the stream in batches, and the test split in larger batches, all as they are stored."""
    part = yaml.safe_load((CONFIGS / "task" / f"{task}.yaml").read_text())["data"]
    arguments = {**part.get("init_args", {}), **({"source": source} if source else {})}
    module = getattr(datamodules, part["class_path"].rpartition(".")[2])(
        **arguments, batch_size=batch_size, max_samples=samples, max_val_samples=test_samples, seed=seed
    )
    module.setup()
    return module.task, list(module.train_dataloader()), list(module.val_dataloader())


def prepare(problem: Problem, seed: int) -> tuple[Backbone, Pairs, Pairs]:
    """The backbone in its initial state, the stream and the test batches as inputs and labels.

    The seed fixes the order of the stream, the initial weights and, drawn next, a random prior.
    """
    task, stream, test = load(
        problem.task, problem.source, problem.samples, problem.test_samples, seed, problem.batch_size
    )
    config = yaml.safe_load((CONFIGS / "backbone" / f"{BACKBONES[problem.task]}.yaml").read_text())["model"]["backbone"]
    torch.manual_seed(seed)
    name = {"name": problem.backbone} if problem.backbone else {}
    fixed = {"head_init": "random"}  # as in the papers
    backbone = build_backbone(BackboneConfig(**{**config, **fixed, **name, **problem.backbone_args}), task)
    if problem.weights:
        initialise(backbone, problem.weights)
    return backbone, pairs(backbone, stream), pairs(backbone, test)


def pairs(backbone: Backbone, batches: list[dict[str, Any]]) -> Pairs:
    """Inputs and labels of raw batches."""
    return [(backbone.preprocess(batch), batch["label"]) for batch in batches]


def observations(
    backbone: Backbone,
    optimizer: OnlineOptimizer,
    stream: Pairs,
    likelihood: type[Likelihood] = Categorical,
    warmup: int = 0,
) -> Iterator[Observation]:
    """Learn the stream a batch at a time; hand out what was observed of each, before it was learnt from."""
    schedule = Schedule(warmup=warmup).build(optimizer, len(stream)) if warmup else None
    for inputs, label in stream:
        yield optimizer.step(lambda inputs=inputs, label=label: likelihood(backbone(inputs)).observe(label))
        if schedule:
            schedule.step()


def learn(backbone: Backbone, optimizer: OnlineOptimizer, stream: Pairs, warmup: int = 0) -> Iterator[float]:
    """Learn the stream a batch at a time; say which share of each was predicted, before it was learnt from."""
    for observation in observations(backbone, optimizer, stream, warmup=warmup):
        yield float((observation.outputs.argmax(-1) == observation.target).double().mean())


def trace(learning: Iterator[Any], evaluate: Evaluate, every: int) -> list[dict[str, float]]:
    """Go through the steps of a run; evaluate before the first, after every so many of them, and after the last.

    Args:
        learning: Takes a step each time it is asked for the next item.
        evaluate: Works out what is followed.
        every: Steps between two evaluations.
    """
    points, step = [{"step": 0, **evaluate()}], 0
    for step, _ in enumerate(learning, 1):
        if step % every == 0:
            points.append({"step": step, **evaluate()})
    return points if step % every == 0 else [*points, {"step": step, **evaluate()}]


def gradient_norm(backbone: Backbone, batches: Pairs, likelihood: type[Likelihood]) -> float:
    """Norm of the gradient of the mean negative log-likelihood of all batches; no parameter's own is touched."""
    params = [param for param in backbone.parameters() if param.requires_grad]
    total = [torch.zeros_like(param) for param in params]
    for inputs, label in batches:
        grads = torch.autograd.grad(likelihood(backbone(inputs)).observe(label).nll(), params)
        for own, grad in zip(total, grads, strict=True):
            own += len(label) * grad
    return float(torch.nn.utils.get_total_norm(total)) / sum(len(label) for _, label in batches)


@torch.no_grad()
def accuracy(backbone: Backbone, batches: Pairs) -> float:
    """Percentage of samples that are predicted."""
    correct = sum(int((backbone(inputs).argmax(-1) == label).sum()) for inputs, label in batches)
    return 100 * correct / sum(len(label) for _, label in batches)


def follow(
    backbone: Backbone, optimizer: OnlineOptimizer, stream: Pairs, test: Pairs, warmup: int = 0
) -> dict[str, Any]:
    """Learn a stream: average online accuracy, its curve, test accuracy, and what went wrong, if anything."""
    correct = torch.tensor(list(learn(backbone, optimizer, stream, warmup)), dtype=torch.float64)
    average = 100 * correct.cumsum(0) / torch.arange(1, len(correct) + 1)
    steps = torch.linspace(0, len(correct), POINTS + 1).long()[1:]
    return {
        "online": float(average[-1]),
        "test": accuracy(backbone, test),
        "steps": steps.tolist(),
        "curve": average[steps - 1].tolist(),
        "failure": optimizer.check_divergence(),
    }


def run(problem: Problem, rule: Rule, seed: int) -> dict[str, Any]:
    """One run from its beginning to its end."""
    backbone, stream, test = prepare(problem, seed)
    return follow(backbone, rule.build(backbone), stream, test, rule.warmup)


def settings(problem: Problem, rule: Rule, seed: int) -> dict[str, Any]:
    """What a run depends on; what came to be settable later is named only where it differs from its default."""
    varied = {"optimizer": rule.name, "arguments": rule.arguments, "seed": seed}
    later = {"batch_size": 1, "backbone_args": {}, "warmup": 0}
    every = {**asdict(problem), **varied, "warmup": rule.warmup}
    return {name: value for name, value in every.items() if name not in later or value != later[name]}
