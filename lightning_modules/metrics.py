"""Prequential metrics: every sample is predicted before it is learnt from."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchmetrics
from filtune.datamodules import Task
from filtune.optimizers import Observation
from torch import Tensor, nn
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef

from .scores import ProbabilityScores

WINDOW = 1000
"""Samples in the windowed loss (LoKO section 5.2)."""


class WindowedMean(nn.Module):
    """Mean of the last ``size`` values, held in buffers so that it is saved and restored exactly.

    Args:
        size: Length of the window.
    """

    values: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def update(self, values: Tensor) -> None:
        """Append values, (B,)."""
        positions = (self.count + torch.arange(len(values), device=values.device)) % len(self.values)
        self.values[positions] = values.to(self.values.dtype)
        self.count += len(values)

    def compute(self) -> Tensor:
        """Mean over what the window holds, ()."""
        return self.values.sum() / self.count.clamp(min=1, max=len(self.values))


class Matthews(MulticlassMatthewsCorrCoef):
    """Matthews correlation; 0 where a single class is predicted or occurs, for which torchmetrics gives 0.04 or 1."""

    def compute(self) -> Tensor:
        """Correlation of the labels with those predicted, ()."""
        predicted, occurring = ((self.confmat.sum(dim) > 0).sum() for dim in (0, 1))
        value = super().compute()
        return torch.where((predicted > 1) & (occurring > 1), value, torch.zeros_like(value))


def build_metrics(task: Task, names: tuple[str, ...], joint: bool = False) -> torchmetrics.MetricCollection:
    """Metrics by name for a task.

    Args:
        task: The task.
        names: Metrics by name.
        joint: Whether every process sees the samples of all; otherwise each sees its own, and they are counted
            together in the end.

    Raises:
        ValueError: If a name is unknown or does not fit the kind of task.
    """
    m, options = task.outputs, {"validate_args": False, "sync_on_compute": not joint}
    if task.kind == "classification":
        known: dict[str, Callable[[], torchmetrics.Metric]] = {
            "accuracy": lambda: MulticlassAccuracy(m, average="micro", **options),
            "top5": lambda: MulticlassAccuracy(m, top_k=min(5, m), average="micro", **options),
            "matthews": lambda: Matthews(m, **options),
            "f1": lambda: BinaryF1Score(**options) if m == 2 else MulticlassF1Score(m, **options),
        }
    else:
        known = {
            "pearson": lambda: PearsonCorrCoef(num_outputs=m, sync_on_compute=not joint),
            "spearman": lambda: SpearmanCorrCoef(num_outputs=m, sync_on_compute=not joint),
        }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"data.metrics: {', '.join(unknown)} not known for {task.kind}; choose from {', '.join(known)}"
        )
    return torchmetrics.MetricCollection({name: known[name]() for name in names}, compute_groups=False)


def predictions(observation: Observation, task: Task, name: str) -> Tensor:
    """What a metric takes of the outputs: probabilities, classes, or values."""
    mean = observation.likelihood.mean()
    if task.kind == "regression":
        return mean.squeeze(-1)
    return mean.argmax(-1) if name == "f1" and task.outputs == 2 else mean


class MetricSet(nn.Module):
    """A task's metrics over observations, in 0..100.

    Args:
        task: The task.
        names: Metrics by name.
        joint: Whether every process sees the samples of all.
    """

    def __init__(self, task: Task, names: tuple[str, ...], joint: bool = False) -> None:
        super().__init__()
        self.task = task
        self.metrics = build_metrics(task, names, joint)
        self.metrics.persistent(True)

    @torch.no_grad()
    def update(self, observation: Observation) -> None:
        """Take a batch of observations into account."""
        for name, metric in self.metrics.items(keep_base=True):
            metric.update(predictions(observation, self.task, name), observation.target)

    def compute(self, prefix: str) -> dict[str, Tensor]:
        """Values by prefixed name; several outputs are averaged."""
        return {f"{prefix}{name}": 100 * value.float().mean() for name, value in self.metrics.compute().items()}

    def reset(self) -> None:
        """Forget all observations."""
        self.metrics.reset()


class Prequential(nn.Module):
    """The online metrics of a run: accuracy (or Pearson) up to now, top 5, the windowed loss, scores of probabilities.

    The scores are those of the softmax, and where the optimizer knows the parameters' uncertainty, of the
    probabilities that take it into account (``moderated_``).

    Args:
        task: The task.
    """

    samples: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        names: tuple[str, ...] = ("pearson",)
        if task.kind == "classification":
            names = ("accuracy", "top5") if task.outputs > 5 else ("accuracy",)
        self.score = names[0]
        self.set = MetricSet(task, names, joint=True)
        self.loss = WindowedMean(WINDOW)
        classes = task.kind == "classification"
        self.l1 = WindowedMean(WINDOW) if classes else None
        self.scores = ProbabilityScores() if classes else None
        self.moderated = ProbabilityScores() if classes else None
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, observation: Observation, moderated: Tensor | None = None) -> None:
        """Take in a batch observed before the update.

        Args:
            observation: The batch.
            moderated: Probabilities by :meth:`optimizers.base.OnlineOptimizer.predictive`, (B, m).
        """
        self.set.update(observation)
        self.loss.update(observation.nll().expand(len(observation.target)))
        if self.l1 is not None and self.scores is not None and self.moderated is not None:
            probabilities = observation.likelihood.mean()
            self.l1.update(absolute_error(probabilities, observation.target))
            self.scores.update(probabilities, observation.target)
            if moderated is not None:
                self.moderated.update(moderated, observation.target)
        self.samples += len(observation.target)

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        """``online/*`` by name."""
        figures = {**self.set.compute("online/"), "online/loss": self.loss.compute()}
        if self.l1 is not None and self.scores is not None and self.moderated is not None:
            figures |= {"online/l1": self.l1.compute(), **self.scores.compute("online/")}
            if self.moderated.samples():
                figures |= self.moderated.compute("online/moderated_")
        return figures


def absolute_error(probabilities: Tensor, target: Tensor) -> Tensor:
    """L1 loss of each sample, mean over the classes of |one-hot - probability|, (B,): the loss of LoKO's figure 1.

    It is 2 (1 - p_target) / m, for probabilities sum to one.

    Args:
        probabilities: (B, m).
        target: Classes, (B,).
    """
    return 2 * (1 - probabilities.gather(-1, target.unsqueeze(-1)).squeeze(-1)) / probabilities.shape[-1]
