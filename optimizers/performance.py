r"""Scores of an optimizer on the last samples, against a predictor that does not look at the inputs.

A diverged or saturated optimizer is recognised by its predictions: probabilities cannot explode, and a gain of zero is
right where the errors are zero. Over the last samples, with weights that fade as (1 - 1/W)^age, these are averaged

    log loss, accuracy and the frequencies of the labels        of a likelihood with classes,
    squared error, mean and mean square of the targets          of any other,

all taken before the update, and of a filter the share of the residual that its steps remove, by its own linear model.
A step only keeps what it has computed anyway; every few steps one small vector is updated, and nothing waits for the
device until somebody asks.

Shapes: ``B`` batch, ``k`` outcomes: the classes, two for labels that may occur together.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .likelihoods.base import Likelihood, Observation

RECENT = "recent"
"""Key under which a state keeps the averages."""

WINDOW = 100
"""W, samples over which the averages fade."""

FADE = 1 - 1 / WINDOW

ENOUGH = 1 - FADE**100
"""Weight of the samples seen from which on there is a verdict: 100 samples."""

CERTAIN = 1 - FADE**500
"""The same for the verdict that the optimizer diverged: the first steps may overshoot."""

EXCESS = 10.0
"""Largest log loss of a sample in the average, in nats above ln k: one impossible label is no divergence."""

FAR = 2.0
"""Log loss, as a multiple of that of the label frequencies, from which on it is far worse than chance."""

FAR_SQUARED = 4.0
"""The same for the squared error, as a multiple of the targets' variance."""

SKILL = 0.75
"""Log loss as a share of ln k, or squared error as one of the variance, below which something has been learnt."""

QUANTILE = 3.29
"""Standard normal quantile of the bounds on the accuracy."""

SATURATED = 0.02
"""Share of the residual removed by a step below which a filter whose errors are large no longer learns."""

TOGETHER = 32
"""Number of steps that are averaged at once, so that a step costs almost nothing."""

LARGE = 2**18
"""Numbers of the predictions kept from which on they are averaged earlier, for their memory."""

HEAD = 7
"""Entries of the vector before those that depend on the likelihood."""


class Recent(NamedTuple):
    """Averages over the last samples, on the host.

    Attributes:
        weight: Weight of the samples seen; the others are divided by it.
        classes: Number of outcomes k; 0 where the target is a number.
        learned: Whether the predictions were ever better than those without inputs.
        loss: Log loss, each sample's at most ln k + ``EXCESS``; or squared error.
        accuracy: Share of right classes; 0 where the target is a number.
        usual: Frequency of the most frequent class; or variance of the targets.
        baseline: Log loss from which on it counts as far worse than chance, or squared error.
        corrected: Share of the residual that the steps removed; None where it is not known.
    """

    weight: float
    classes: int
    learned: bool
    loss: float
    accuracy: float
    usual: float
    baseline: float
    corrected: float | None

    @property
    def fails(self) -> bool:
        """True if loss or accuracy are far worse than those of a predictor without inputs."""
        if self.weight < ENOUGH:
            return False
        chance = 1 / self.classes if self.classes else 0.0
        return self.loss > self.baseline or self.accuracy < min(chance, self.usual) - _deviation(chance)

    @property
    def guesses(self) -> bool:
        """True if no skill is left: the classes predicted are no better than the most frequent one."""
        return not self.classes or self.accuracy <= self.usual + _deviation(self.usual)

    @property
    def diverged(self) -> bool:
        """True if it fails and never did better: there is nothing to lose."""
        if not self.classes:  # a squared error may lag behind a drift, or fall slowly from far away
            return False
        certain = self.fails and self.guesses and self.weight > CERTAIN
        return certain and not self.learned and self.loss > self.baseline

    @property
    def saturated(self) -> bool:
        """True if it fails and its steps remove almost none of the error."""
        return self.fails and self.corrected is not None and self.corrected < SATURATED

    def describe(self) -> str:
        """Return the figures in words, for a message."""
        if not self.classes:
            return (
                f"over the last {WINDOW} samples or so the squared error is {self.loss:.3g}, the variance of the "
                f"targets {self.usual:.3g}"
            )
        return (
            f"over the last {WINDOW} samples or so the accuracy is {100 * self.accuracy:.1f} % and the log loss at "
            f"least {self.loss:.3g}, where guessing has {100 / self.classes:.1f} % and {math.log(self.classes):.3g}"
        )


class Sample(NamedTuple):
    """One step's batch, kept until several are averaged at once.

    Attributes:
        likelihood: Of the outputs, without their graph.
        mean: Expected observation, (B, m).
        target: The target.
        finite: Whether the update was finite, (); None where that is not known.
        residual: Residual, (rows,); None but for filters.
        remaining: Residual after the step, by the linear model of the update, (rows,).
    """

    likelihood: Likelihood
    mean: Tensor
    target: Tensor
    finite: Tensor | None = None
    residual: Tensor | None = None
    remaining: Tensor | None = None

    def joins(self, other: Sample) -> bool:
        """Return whether both can be averaged at once: the same likelihood and shapes."""
        same = type(self.likelihood) is type(other.likelihood) and (self.finite is None) == (other.finite is None)
        same = same and self.mean.shape == other.mean.shape and self.target.shape == other.target.shape
        return same and (self.residual is None) == (other.residual is None)


class Follower:
    """A collector of samples, which averages them every ``TOGETHER`` steps or when asked."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []

    @torch.no_grad()
    def add(
        self,
        memory: dict[str, Any],
        observation: Observation,
        finite: Tensor | None = None,
        residual: Tensor | None = None,
        remaining: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            memory: Holds the averages as ``recent``.
            observation: The batch of all ranks, before its update.
            finite: Whether the update is finite, (); otherwise the batch is left out.
            residual: Residual of a filter, (rows,).
            remaining: The same after the step, by its linear model.
        """
        likelihood = observation.likelihood
        mean = likelihood.mean().detach().clone()  # the caller may reuse the memory of outputs and targets
        sample = Sample(likelihood.at(mean), mean, observation.target.clone(), finite, residual, remaining)
        if self._samples and not sample.joins(self._samples[-1]):
            self.settle(memory)
        self._samples.append(sample)
        if len(self._samples) >= TOGETHER or len(self._samples) * mean.numel() >= LARGE:
            self.settle(memory)

    def settle(self, memory: dict[str, Any]) -> None:
        """Average what was collected, into ``memory["recent"]``."""
        samples, self._samples = self._samples, []
        if samples:
            memory[RECENT] = update_recent(memory.get(RECENT), samples)


@torch.no_grad()
def update_recent(recent: Tensor | None, samples: list[Sample]) -> Tensor:
    """Return the averages after several batches of one kind and size.

    Args:
        recent: The averages so far, (7 + k,) or (8,); None at first.
        samples: The batches, the oldest first.
    """
    likelihood, J, B = samples[0].likelihood, len(samples), len(samples[0].mean)
    mean = torch.cat([sample.mean for sample in samples]).double()
    target = torch.cat([sample.target for sample in samples])
    found = likelihood.outcomes(mean, target)
    one = mean.new_ones(J)
    if found is None:
        y = target.double().reshape(mean.shape)
        scores = [(y - mean).square(), y]
        tail = [y.square()]
        classes = 0
    else:
        p, y = found
        classes = p.shape[1]
        own = p.gather(1, y.unsqueeze(1)).clamp_min(math.exp(-EXCESS) / classes)
        scores = [-own.log(), (p.argmax(1) == y).double()]
        tail = [torch.nn.functional.one_hot(y, classes).double()]
    energies = [mean.new_zeros(J), mean.new_zeros(J)]
    if samples[0].residual is not None:
        pairs = [(s.residual.double().flatten(), s.remaining.double()) for s in samples]  # type: ignore[union-attr]
        energies = [torch.stack([e @ e for e, _ in pairs]), torch.stack([e @ (e - left) for e, left in pairs])]
    columns = [one, one, *(score.reshape(J, -1).mean(1) for score in scores), *energies, classes * one]
    values = torch.cat([torch.stack(columns, 1), *(part.reshape(J, -1, max(classes, 1)).mean(1) for part in tail)], 1)

    valid = values.sum(1).isfinite()
    if samples[0].finite is not None:
        valid = valid & torch.stack([sample.finite for sample in samples])  # type: ignore[misc]
    if recent is None or len(recent) != values.shape[1]:
        recent = values.new_zeros(values.shape[1])
    # one after the other, so that it makes no difference when somebody asks in between
    for value, is_valid in zip(values, valid, strict=True):
        after = recent * FADE**B + (1 - FADE**B) * value
        after[1] = torch.maximum(recent[1], _has_skill(after).double())
        after[6] = classes
        recent = torch.where(is_valid, after, recent)
    return recent


def _has_skill(recent: Tensor) -> Tensor:
    """Return whether the averages are better than those of a predictor without inputs, ()."""
    weight, loss = recent[0], recent[2] / recent[0]
    if len(recent) > HEAD + 1:
        return (weight > ENOUGH) & (loss < SKILL * math.log(len(recent) - HEAD))
    variance = recent[HEAD] / weight - (recent[3] / weight).square()
    return (weight > ENOUGH) & (loss < SKILL * variance)


def with_more_outcomes(recent: Tensor, more: int) -> Tensor:
    """Return averages with classes that have not occurred yet, (7 + k + more,); those of numbers as they are."""
    if not bool(recent[HEAD - 1]):
        return recent
    grown = torch.cat([recent, recent.new_zeros(more)])
    grown[HEAD - 1] += more
    return grown


def read_recent(recent: Tensor | None) -> Recent | None:
    """Return the averages on the host, for which the device is waited for; None before the first sample."""
    if recent is None:
        return None
    weight, learned, loss, second, residual, removed, classes, *tail = recent.tolist()
    if not weight:
        return None
    loss, second, k = loss / weight, second / weight, int(classes)
    corrected = max(removed / residual, 0.0) if residual else None
    if not k:
        variance = max(tail[0] / weight - second**2, 0.0)
        baseline = FAR_SQUARED * variance if variance else math.inf
        return Recent(weight, 0, bool(learned), loss, 0.0, variance, baseline, corrected)
    shares = [share / weight for share in tail]
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    baseline = max(FAR * entropy, math.log(k))
    return Recent(weight, k, bool(learned), loss, second, max(shares), baseline, corrected)


def _deviation(share: float) -> float:
    """Return how far the frequency of an event of this probability is from it, one time in a thousand.

    The mean with fading weights has the variance of one over 2W - 1 samples.
    """
    return QUANTILE * math.sqrt(share * (1 - share) / (2 * WINDOW - 1))
