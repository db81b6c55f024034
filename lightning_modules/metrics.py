"""The metrics of a run, as its likelihood declares them; online, every sample is predicted before it is learnt from."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import torch
import torchmetrics
from filtune.datamodules import Task
from filtune.optimizers import Observation
from filtune.optimizers.likelihoods import likelihood_of
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassMatthewsCorrCoef

from .predictions import PredictionLog
from .scores import ProbabilityScores

MOST_CLASSES = 50
"""Classes of a confusion matrix that can still be read."""

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
        """Append values, (B,); those that are not finite are left out."""
        values = values.to(self.values.dtype)
        valid = values.isfinite()
        if len(values) > 1:  # a single one is left out without waiting for the device
            values = values[valid]
            valid = torch.ones_like(values, dtype=torch.bool)
        positions = (self.count + torch.arange(len(values), device=values.device)) % len(self.values)
        self.values[positions] = torch.where(valid, values, self.values[positions])
        self.count += valid.sum()

    def compute(self) -> Tensor:
        """Return the mean over what the window holds, ()."""
        return self.values.sum() / self.count.clamp(min=1, max=len(self.values))


class Matthews(MulticlassMatthewsCorrCoef):
    """Matthews' correlation, 0 where a single class is predicted or occurs (torchmetrics gives 0.04 or 1)."""

    def compute(self) -> Tensor:
        """Return the correlation of the labels with those predicted, ()."""
        predicted, occurring = ((self.confmat.sum(dim) > 0).sum() for dim in (0, 1))
        value = super().compute()
        return torch.where((predicted > 1) & (occurring > 1), value, torch.zeros_like(value))


CORRECTED = {"torchmetrics.classification.MulticlassMatthewsCorrCoef": Matthews}
"""Classes that stand for those of torchmetrics, by the path under which a likelihood declares them."""


def build_metric(kind: str, outputs: int, name: str, joint: bool = False) -> torchmetrics.Metric:
    """Return the metric of a kind of task, as its likelihood declares it.

    Args:
        kind: The kind of task.
        outputs: Number of model outputs m.
        name: Name of the metric.
        joint: Whether every process sees the samples of all; otherwise each sees its own, and they are counted
            together in the end.

    Raises:
        ValueError: If the kind of task has no such metric.
    """
    known = likelihood_of(kind).metrics(outputs)
    if name not in known:
        raise ValueError(f"data.metrics: {name} not known for {kind}; choose from {', '.join(known)}")
    path = known[name].path
    module, _, attribute = path.rpartition(".")
    cls = CORRECTED.get(path) or getattr(import_module(module), attribute)
    return cls(**known[name].arguments, sync_on_compute=not joint)


class MetricSet(nn.Module):
    """A task's metrics over observations; those declared in percent are in 0..100.

    Args:
        task: The task.
        names: Metrics by name.
        joint: Whether every process sees the samples of all.
    """

    def __init__(self, task: Task, names: tuple[str, ...], joint: bool = False) -> None:
        super().__init__()
        built = {name: build_metric(task.kind, task.outputs, name, joint) for name in names}
        self.declared = likelihood_of(task.kind).metrics(task.outputs)
        self.metrics = torchmetrics.MetricCollection(built, compute_groups=False)  # type: ignore[arg-type]
        self.metrics.persistent(True)

    @torch.no_grad()
    def update(self, observation: Observation, counts: Tensor | None = None) -> None:
        """Take a batch of observations into account.

        Args:
            observation: The batch.
            counts: Whether it counts, () bool on its device; otherwise all metrics stay as they are.
        """
        likelihood, target = observation.likelihood, observation.likelihood.metric_target(observation.target)
        for name, metric in self.metrics.items(keep_base=True):
            taken = likelihood.mean() if self.declared[name].takes == "mean" else likelihood.answer()
            before = {} if counts is None else dict(metric.metric_state)
            metric.update(taken, target)
            for state, value in before.items():
                setattr(metric, state, torch.where(counts, getattr(metric, state), value))

    def compute(self, prefix: str) -> dict[str, Tensor]:
        """Return values by prefixed name; several outputs are averaged."""
        return {
            f"{prefix}{name}": (100 if self.declared[name].percent else 1) * value.float().mean()
            for name, value in self.metrics.compute().items()
        }

    def reset(self) -> None:
        """Discard all observations."""
        self.metrics.reset()


def build_confusion(task: Task) -> MulticlassConfusionMatrix | None:
    """Return a confusion matrix; None for tasks without one class per sample, or with more than ``MOST_CLASSES``."""
    if not likelihood_of(task.kind).is_softmax or task.outputs > MOST_CLASSES:
        return None
    return MulticlassConfusionMatrix(task.outputs, validate_args=False)


class Prequential(nn.Module):
    """The online metrics of a run: those of its likelihood up to now, the windowed loss, scores of probabilities.

    A sample whose prediction is not finite is counted apart (``online/nonfinite_samples``) and enters nothing else.
    The scores are those of the model's probabilities, and where the optimizer knows the parameters' uncertainty, also
    of the posterior predictive ones (``predictive_``).

    Args:
        task: The task.
    """

    samples: Tensor
    nonfinite: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        likelihood = likelihood_of(task.kind)
        known = likelihood.metrics(task.outputs)
        names = tuple(name for name in likelihood.online_metrics if name in known)
        self.score = names[0]
        self.set = MetricSet(task, names, joint=True)
        self.loss = WindowedMean(WINDOW)
        scored = likelihood.has_classes
        self.l1 = WindowedMean(WINDOW) if scored else None
        self.scores = ProbabilityScores() if scored else None
        self.predictive = ProbabilityScores() if scored else None
        counted = task.outputs <= MOST_CLASSES
        self.log = PredictionLog(task.outputs, counted) if likelihood.is_softmax else None
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))
        self.register_buffer("nonfinite", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, observation: Observation, predictive: Tensor | None = None, score: bool = True) -> None:
        """Take in a batch observed before the update.

        Args:
            observation: The batch.
            predictive: Probabilities by :meth:`optimizers.base.OnlineOptimizer.predictive`, (B, m).
            score: Whether it could be predicted; otherwise its samples are counted alone.
        """
        self.samples += len(observation.target)
        if self.log is not None:
            self.log.update(observation)
        if not score:
            return
        valid = usable(observation)
        self.nonfinite += (~valid).sum()
        if len(valid) > 1 or valid.device.type == "cpu":
            if not bool(valid.all()):
                predictive = None if predictive is None else predictive[valid]
                observation = observation.likelihood.at(observation.outputs[valid]).observe(observation.target[valid])
            if not len(observation.target):
                return
            self.set.update(observation)
        else:  # a single sample is left out without waiting for the device
            self.set.update(observation, valid.all())
        likelihood, target = observation.likelihood, observation.target
        self.loss.update(observation.nll().expand(len(target)))
        found = likelihood.outcomes(likelihood.mean(), target)
        if found is None or self.l1 is None or self.scores is None or self.predictive is None:
            return
        self.l1.update(absolute_error(*found).view(len(target), -1).mean(1))
        self.scores.update(*found)
        averaged = None if predictive is None else likelihood.outcomes(predictive, target)
        if averaged is not None:
            self.predictive.update(*averaged)

    def skip(self, samples: int) -> None:
        """Count samples that could not be predicted."""
        self.samples += samples
        if self.log is not None:
            self.log.samples += samples

    def load_log(self, state: dict[str, Any] | None, samples: int) -> None:
        """Restore the counts of predictions, of which checkpoints of earlier releases, after ``samples``, have none."""
        if self.log is not None:
            self.log.load(state or {"samples": samples})

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        """Return ``online/*`` by name."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one sample, or of equal ones, there is no correlation yet
            figures = {**self.set.compute("online/"), "online/loss": self.loss.compute()}
        if int(self.nonfinite):
            figures["online/nonfinite_samples"] = self.nonfinite
        if self.l1 is not None and self.scores is not None and self.predictive is not None:
            figures |= {"online/l1": self.l1.compute(), **self.scores.compute("online/")}
            if self.predictive.samples():
                figures |= self.predictive.compute("online/predictive_")
        return figures


def usable(observation: Observation) -> Tensor:
    """Return which samples have a finite prediction and a finite target, (B,)."""
    tensors = (observation.outputs.detach(), observation.likelihood.mean().detach(), observation.target)
    return torch.stack([tensor.isfinite().reshape(len(tensor), -1).all(1) for tensor in tensors]).all(0)


def absolute_error(probabilities: Tensor, target: Tensor) -> Tensor:
    """Return the L1 loss of each sample, mean over the classes of |one-hot - probability|, (B,): LoKO's figure 1.

    It is 2 (1 - p_target) / m, for probabilities sum to one.

    Args:
        probabilities: (B, m).
        target: Classes, (B,).
    """
    return 2 * (1 - probabilities.gather(-1, target.unsqueeze(-1)).squeeze(-1)) / probabilities.shape[-1]
