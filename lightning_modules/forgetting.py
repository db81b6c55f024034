"""Accuracy on each segment of a non-stationary stream, and how much of it is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from filtune.optimizers import Observation
from torch import Tensor, nn
from torchmetrics import Metric


class SegmentAccuracy(Metric):
    """Samples of each segment and how many of them are predicted correctly, over all processes.

    Args:
        count: Number of segments.
    """

    right: Tensor
    total: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, right: Tensor, segment: Tensor) -> None:
        """Add a batch.

        Args:
            right: Which samples are predicted correctly, (B,).
            segment: The segment of each, (B,).
        """
        self.right.index_add_(0, segment, right.long())
        self.total.index_add_(0, segment, torch.ones_like(segment))

    def compute(self) -> Tensor:
        """Return the accuracy on each segment in 0..100, NaN for one without samples, (segments,)."""
        return 100 * self.right.double() / self.total


class Forgetting(nn.Module):
    r"""The accuracy on the validation samples of each segment, and the mean loss of accuracy on earlier ones.

    Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning", equations 3 and 4: with the accuracy
    :math:`a_{v,j}` at validation v on segment j, after validation k in the segment :math:`s_k`

    .. math::
        f_{k,j} &= \max_{v < k,\ v\ \text{after}\ j\ \text{began}} a_{v,j} - a_{k,j} \\
        \text{forgetting}_k &= \operatorname{mean}_{j\ \text{began},\ j \ne s_k} f_{k,j}

    in percentage points; negative where accuracy on earlier segments has risen above its best. A segment counts from
    the first validation after its first sample, before which its accuracy is zero-shot. Of segments that recur, the
    present one does not count. There is no forgetting, rather than 0, as long as no earlier segment has been validated.

    Args:
        segments: The segments as they follow each other in an epoch, as (number, samples), also those that it does not
            reach; none for other streams.

    Attributes:
        best: The best accuracy so far on each segment since it began; NaN before its first validation.
    """

    best: Tensor

    def __init__(self, segments: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.segments = [list(segment) for segment in segments]
        self.order = [number for number, samples in segments if samples]
        self.ends = list(accumulate(samples for _, samples in segments if samples))
        self.count = 1 + max((number for number, _ in segments), default=-1)
        self.accuracy = SegmentAccuracy(self.count)
        self.register_buffer("best", torch.full((self.count,), torch.nan, dtype=torch.float64), persistent=False)

    def update(self, observation: Observation, segment: Tensor | None) -> None:
        """Add a batch of validation samples with the segment of each, (B,); nothing where there are no segments."""
        if self.count and segment is not None:
            likelihood = observation.likelihood
            self.accuracy.update(likelihood.answer() == likelihood.metric_target(observation.target), segment)

    def reset(self) -> None:
        """Discard the last validation."""
        self.accuracy.reset()

    def compute(self, prefix: str, samples: int | None = None) -> dict[str, Tensor]:
        """Return the accuracy on each segment by prefixed name, and the forgetting where it is known.

        Args:
            prefix: What comes before the names.
            samples: Number of training samples so far; the best accuracies are then updated. None outside of training,
                when the forgetting is not known.
        """
        if not self.accuracy.update_called:  # no segments, or validation samples of another data module
            return {}
        accuracy = self.accuracy.compute()
        found = {f"{prefix}accuracy_{number}": accuracy[number] for number in self._scored(accuracy)}
        begun, current = (set(), -1) if samples is None else self.progress(samples)
        if lost := [self.best[j] - accuracy[j] for j in self._scored(self.best - accuracy) if j in begun - {current}]:
            found[f"{prefix}forgetting"] = torch.stack(lost).mean()
        for number in begun.intersection(self._scored(accuracy)):
            self.best[number] = torch.fmax(self.best[number], accuracy[number])
        return found

    def progress(self, samples: int) -> tuple[set[int], int]:
        """Return the segments that have begun after so many training samples, and the one of the last sample."""
        place = max(samples - 1, 0) % self.ends[-1]
        index = next(index for index, end in enumerate(self.ends) if place < end)
        begun = self.order if samples > self.ends[-1] else self.order[: index + 1]
        return set(begun) if samples else set(), self.order[index]

    def state(self) -> dict[str, list]:
        """Return the best accuracies and the segments that they are of, for a checkpoint."""
        return {"segments": self.segments, "best": self.best.tolist()}

    def load(self, state: dict[str, list] | None) -> None:
        """Restore the best accuracies, unless the segments differ."""
        if state is not None and state["segments"] == self.segments:
            self.best.copy_(torch.tensor(state["best"], dtype=torch.float64))

    def names(self, prefix: str) -> set[str]:
        """Return the names of the accuracies, and of the forgetting where an earlier segment comes to an end."""
        forgetting = {f"{prefix}forgetting"} if len(set(self.order)) > 1 else set()
        return {f"{prefix}accuracy_{number}" for number in range(self.count)} | forgetting

    @staticmethod
    def _scored(values: Tensor) -> list[int]:
        return [number for number, known in enumerate(values.isfinite().tolist()) if known]
