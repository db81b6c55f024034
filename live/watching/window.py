"""Figures over a window: the last predictions that were scored, and the last samples and labels that came.

Shapes: ``N`` predictions in the window, ``m`` outputs.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from typing import Any, NamedTuple

import torch
from filtune.datamodules import Task
from filtune.lightning_modules.metrics import MetricSet, usable
from filtune.lightning_modules.scores import ProbabilityScores
from filtune.optimizers import Observation
from filtune.optimizers.growth import padded
from filtune.optimizers.likelihoods import likelihood_of
from filtune.optimizers.likelihoods.tasks import Coding
from torch import Tensor

SIZE = 1000
"""Predictions in a window, as many as in the windowed loss of ``fit``."""

INTERVAL = 1.6448536269514722
"""Standard deviations on either side of the mean that hold 90 % of a normal distribution."""

SAMPLE, LABEL = 1, 2
"""What comes; a sample with its label is both."""


class Score(NamedTuple):
    """Scores of one prediction.

    Attributes:
        loss: Negative log-likelihood of the label in nats.
        error: Of classes 1 where the prediction is wrong, else 0; of several labels the share of wrong ones; of
            numbers the squared error.
    """

    loss: float
    error: float

    def is_finite(self) -> bool:
        """Return whether both are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.error)


class ScoreWindow:
    r"""The last predictions that were scored before their labels were learned, and figures of them.

    Figures are computed anew from the predictions in the window, so that no error adds up. A prediction that is not
    finite has a place in the window and enters no figure. Of N predictions with probabilities p and classes y:

    .. math::
        \text{log loss} &= \tfrac1N \textstyle\sum_t -\ln p_{t, y_t} \\
        \text{calibration error} &= \textstyle\sum_b \tfrac{N_b}{N} |\text{accuracy}_b - \text{confidence}_b|

    the latter over 15 bins of equal width of the largest probability (Guo et al. 2017;
    :class:`~lightning_modules.scores.ProbabilityScores`). Shares are in 0..1.

    Args:
        task: The task.
        size: Predictions in the window.

    Attributes:
        count: Predictions so far, of which the next is at this place of the ring.
        earlier: Predictions before them that came to windows of other sizes.

    Raises:
        ValueError: If the size is not positive.
    """

    def __init__(self, task: Task, size: int = SIZE) -> None:
        if size < 1:
            raise ValueError(f"window: must be at least one prediction, got {size}")
        self.task, self.size, self.count, self.earlier = task, size, 0, 0
        self._columns: dict[str, Tensor] = {}
        self._came: deque[int] = deque(maxlen=size)
        self._has_interval = _has_interval(task)
        self._metric_set: tuple[Any, MetricSet] | None = None

    def names(self) -> dict[str, bool]:
        """Return the names of the figures of the task, and whether each is a share, in -1..1."""
        likelihood, outputs = likelihood_of(self.task.kind), self.task.outputs
        found = {name: metric.percent for name, metric in likelihood.metrics(outputs).items()}
        found["log_loss"] = False
        if likelihood.has_classes:
            found |= {"brier": False, "calibration_error": True}
        if self._has_interval:
            found["coverage"] = True
        return {**found, "missing": True}

    # what comes

    def came(self, what: int) -> None:
        """Add a sample, a label, or a sample with its label to what came."""
        self._came.append(what)

    @torch.no_grad()
    def update(self, observation: Observation) -> None:
        """Add a batch that was predicted before its labels were learned."""
        likelihood, target = observation.likelihood, observation.target
        new = {
            "valid": usable(observation),
            "mean": likelihood.mean().detach().float(),
            "answer": likelihood.answer().detach(),
            "target": target,
            "loss": _losses(observation),
        }
        if self._has_interval:
            new["covered"] = _covered(observation)
        if not self._columns:
            self._columns = {name: value.new_zeros(self.size, *value.shape[1:]) for name, value in new.items()}
        for row in range(len(target)):
            for name, value in new.items():
                self._columns[name][self.count % self.size] = value[row]
            self.count += 1

    def grow(self, task: Task) -> None:
        """Take a task with more classes; earlier predictions give the new ones no probability."""
        self.task = task
        if self._columns and self._columns["mean"].shape[1] < task.outputs:
            self._columns["mean"] = padded(self._columns["mean"].mT, task.outputs).mT.contiguous()

    def resized(self, size: int) -> ScoreWindow:
        """Return a window of another size with the newest predictions of this one."""
        other = ScoreWindow(self.task, size)
        other._came.extend(self._came)
        for name, rows in self._ordered().items():
            kept = rows[-size:]
            other._columns[name] = torch.cat([kept, kept.new_zeros(size - len(kept), *kept.shape[1:])])
            other.count = len(kept)
        other.earlier = self.total() - other.count
        return other

    # figures

    def __len__(self) -> int:
        """Return how many predictions the window holds."""
        return min(self.count, self.size)

    def total(self) -> int:
        """Return how many predictions there were in all, whatever the size of the window was."""
        return self.earlier + self.count

    def arrived(self) -> int:
        """Return how many samples and labels the window holds."""
        return len(self._came)

    def last(self, batch: int = 1) -> Score | None:
        """Return the scores of the last prediction, or their mean over the last few; None if one is not finite."""
        places = [(self.count - 1 - k) % self.size for k in range(min(batch, len(self)))]
        rows = {name: column[places] for name, column in self._columns.items()}
        if not places or not bool(rows["valid"].all()):
            return None
        answer, target = rows["answer"], rows["target"].reshape(rows["answer"].shape)
        wrong = (answer != target) if likelihood_of(self.task.kind).has_classes else (answer - target).square()
        return Score(float(rows["loss"].mean()), float(wrong.double().mean()))

    def values(self, *names: str) -> dict[str, float]:
        """Return figures by name, all of them by default; those of which there is nothing yet are left out.

        They have seven digits, as many as float32 holds: a share that is 0.7 is not below 0.7 by its rounding.
        """
        return {name: float(f"{value:.7g}") for name, value in self._values(names or tuple(self.names())).items()}

    def _values(self, names: tuple[str, ...]) -> dict[str, float]:
        found = {"missing": self._missing()} if self._came and "missing" in names else {}
        rows = self._ordered()
        if rows and not bool(rows["valid"].all()):
            valid = rows["valid"]
            rows = {name: column[valid] for name, column in rows.items()}
        if not rows or not len(rows["loss"]):
            return found
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one prediction, or of equal ones, there is no correlation
            found |= self._metrics(rows, names)
        if "log_loss" in names:
            found["log_loss"] = float(rows["loss"].mean())
        if "coverage" in names and "covered" in rows:
            found["coverage"] = float(rows["covered"].double().mean())
        if {"brier", "calibration_error"} & {*names} and likelihood_of(self.task.kind).has_classes:
            scores = ProbabilityScores()
            outcomes = likelihood_of(self.task.kind).of(rows["mean"]).outcomes(rows["mean"], rows["target"])
            assert outcomes is not None
            scores.to(outcomes[0].device).update(*outcomes)
            computed = scores.compute("")
            known = {"brier": float(computed["brier"]), "calibration_error": float(computed["ece"]) / 100}
            found |= {name: value for name, value in known.items() if name in names}
        return found

    def _metrics(self, rows: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, float]:
        """Return the metrics that the likelihood declares, computed by torchmetrics."""
        declared = likelihood_of(self.task.kind).metrics(self.task.outputs)
        chosen = tuple(name for name in declared if name in names)
        if not chosen:
            return {}
        key = (chosen, self.task.outputs)
        if self._metric_set is None or self._metric_set[0] != key:
            self._metric_set = key, MetricSet(self.task, chosen, joint=True).to(rows["mean"].device)
        metrics = self._metric_set[1]
        metrics.reset()
        target = likelihood_of(self.task.kind).of(rows["mean"]).metric_target(rows["target"])
        found = {}
        for name, metric in metrics.metrics.items(keep_base=True):
            metric.update(rows["mean"] if declared[name].takes == "mean" else rows["answer"], target)
            found[name] = float(metric.compute().float().mean())
        return found

    def _missing(self) -> float:
        """Return the share of samples for which no label came: 1 - labels / samples of what came last, at least 0."""
        samples = sum(what & SAMPLE for what in self._came)
        labels = sum(bool(what & LABEL) for what in self._came)
        return max(0.0, 1 - labels / samples) if samples else 0.0

    def _ordered(self) -> dict[str, Tensor]:
        """Return the columns of what the window holds, the oldest first."""
        start = self.count % self.size if self.count > self.size else 0
        return {
            name: torch.cat([rows[start : len(self)], rows[:start]]) if start else rows[: len(self)]
            for name, rows in self._columns.items()
        }

    # what is saved

    def state(self) -> dict[str, Any]:
        """Return everything in plain values and tensors."""
        return {
            "size": self.size,
            "count": self.count,
            "earlier": self.earlier,
            "came": list(self._came),
            "columns": self._columns,
        }

    @classmethod
    def of_state(cls, task: Task, state: dict[str, Any], device: torch.device) -> ScoreWindow:
        """Return the window of a checkpoint."""
        found = cls(task, state["size"])
        found.count, found.earlier = state["count"], state.get("earlier", 0)
        found._came.extend(state["came"])
        found._columns = {name: column.to(device, copy=True) for name, column in state["columns"].items()}
        return found


def _has_interval(task: Task) -> bool:
    """Return whether predictions have an interval: of numbers in running units, whose error is followed."""
    likelihood = likelihood_of(task.kind)
    state = likelihood.build_state(task.outputs) if task.target_scaling else None
    if likelihood.has_classes or state is None:
        return False
    return "predictive_std" in likelihood.of(torch.zeros(1, task.outputs), state.value()).columns(Coding())


def _losses(observation: Observation) -> Tensor:
    """Return the negative log-likelihood of each sample, (B,) float64."""
    likelihood, z, target = observation.likelihood, observation.outputs.detach(), observation.target
    each = [likelihood.at(z[i : i + 1]).nll(target[i : i + 1]) for i in range(len(target))]
    return torch.stack(each).double()


def _covered(observation: Observation) -> Tensor:
    """Return whether the target is in the 90 % interval of a new target, (B,); normal, as far as it is known."""
    likelihood, target = observation.likelihood, observation.target
    deviation = likelihood.columns(Coding()).get("predictive_std")
    if deviation is None:
        return torch.zeros(len(target), dtype=torch.bool, device=target.device)
    error = (likelihood.answer().detach() - target.reshape(likelihood.answer().shape)).abs()
    return error <= INTERVAL * torch.tensor(deviation, device=error.device)
