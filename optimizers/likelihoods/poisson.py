"""The Poisson likelihood: counts, whose rate is the exponential of an output.

Shapes throughout: ``B`` batch, ``m`` outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from .base import Innovation, Likelihood, check_observation, identity_cotangents, upcast, upcast_graph
from .tasks import BadLabel, Coding, Encoded, Metric, StreamState, read_numbers

LARGEST = 30.0
"""Log rate above which the rate goes on as a straight line: e^30 is 1e13, and float32 holds its square."""


def rate_of(z: Tensor) -> Tensor:
    """Return exp(z), with the tangent at ``LARGEST`` in its place above it, so that nothing overflows."""
    return z.clamp_max(LARGEST).exp() * (1 + (z - LARGEST).clamp_min(0))


class Poisson(Likelihood):
    r"""Counts with a log link, d = m.

    .. math:: y \sim \text{Poisson}(\lambda), \quad \lambda = e^{\eta}, \quad \eta = z + \text{offset}

    eta is the natural parameter, with residual y - lambda and precision F = lambda. The mean has the same residual and
    the cotangents lambda. Observed as ``logits``, z is compared with ln(y + 1/2) - offset.

    Args:
        outputs: z, (B, m).
        offset: Log rate that outputs of zero stand for, (m,); zero by default.
    """

    kind = "count"
    is_discrete = True
    online_metrics: ClassVar = ("deviance",)
    validation_metrics: ClassVar = ("deviance", "mae")
    target_requirement: ClassVar[str] = "be zero or positive"
    export_note = "The model's output is the logarithm of the expected count: the prediction is its exponential."

    def __init__(self, outputs: Tensor, offset: Tensor | None = None) -> None:
        super().__init__(outputs)
        self.offset = offset

    @classmethod
    def of(cls, outputs: Tensor, value: Any = None) -> Self:
        """Return the likelihood of outputs above a log rate."""
        return cls(outputs, value)

    def mean(self) -> Tensor:
        """Return the rates, (B, m)."""
        return rate_of(self._above_offset(upcast(self.outputs)))

    def nll(self, target: Tensor) -> Tensor:
        """Return lambda - y eta + ln(y!), summed over outputs and averaged over the batch, ()."""
        y, eta = self._shaped(target), self._above_offset(upcast_graph(self.outputs))
        return (rate_of(eta) - y * eta + (y + 1).lgamma()).sum(-1).mean()

    def innovation(self, target: Tensor, observation: str = "probabilities") -> Innovation:
        """Return the residual of the rates, or that of their logarithms where ``logits`` are observed.

        Raises:
            ValueError: If the observation is unknown.
        """
        check_observation(observation)
        y, z = self._shaped(target), upcast(self.outputs)
        if observation == "logits":
            observed = (y + 0.5).log() - self._above_offset(torch.zeros_like(z))
            return Innovation(observed - z, identity_cotangents(z), observed)
        return Innovation(y - self.mean(), torch.diag_embed(self._slope()), y)

    def natural(self, target: Tensor) -> Innovation:
        """Return the log rates, with residual y - lambda and F = diag(lambda)."""
        y, identity = self._shaped(target), identity_cotangents(upcast(self.outputs))
        return Innovation(y - self.mean(), identity, y, torch.diag_embed(self._slope().sqrt()))

    def self_concordance_bound(self, direction: Tensor) -> Tensor:
        """Return the largest entry: the third derivative is lambda u v^2, the second lambda v^2."""
        return direction.abs().amax()

    def covariance(self) -> Tensor:
        """Return diag(lambda), (B, m, m)."""
        return torch.diag_embed(self._slope())

    def square_cumulants(self) -> Tensor:
        """Return those of (y - r)^2, from the central moments r, r + 3r^2 and r + 25r^2 + 15r^3 of even order."""
        r = self.mean().double()
        second, fourth, sixth = r, r + 3 * r**2, r + 25 * r**2 + 15 * r**3
        return torch.stack([second, fourth - second**2, sixth - 3 * fourth * second + 2 * second**3])

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw counts, (B, m)."""
        return torch.poisson(self.mean().nan_to_num(0.0), generator=generator)

    @classmethod
    def encode(cls, values: Sequence[Any], coding: Coding) -> Encoded:
        """Return whole numbers from zero to e^``LARGEST``, (N,) float32.

        Up to it the rate is the exponential of its logarithm. Of larger counts, which only a rate on the straight line
        could have, float32 does not hold the steps, and a filter diverges.
        """
        targets, bad = read_numbers(values)
        most = math.exp(LARGEST)
        for i in (targets > most).nonzero().flatten().tolist():
            bad.setdefault(i, BadLabel(f"count beyond the largest rate, {most:.3g}", repr(values[i])))
        for i in ((targets < 0) | (targets != targets.round())).nonzero().flatten().tolist():
            reason = "negative count" if targets[i] < 0 else "count is no whole number"
            bad.setdefault(i, BadLabel(reason, repr(values[i])))
        return Encoded(targets, bad)

    @classmethod
    def metrics(cls, outputs: int) -> Mapping[str, Metric]:
        """Return the mean deviance, the errors of the expected count and its correlation with the counts."""
        several, error = {"num_outputs": outputs}, "torchmetrics.regression."
        return {
            "deviance": Metric(error + "TweedieDevianceScore", {"power": 1.0}, "answer", False, False),
            "mae": Metric(error + "MeanAbsoluteError", several, "answer", False, False),
            "rmse": Metric(error + "MeanSquaredError", {**several, "squared": False}, "answer", False, False),
            "pearson": Metric(error + "PearsonCorrCoef", several, "answer"),
        }

    @classmethod
    def build_state(cls, outputs: int) -> StreamState:
        """Return the logarithm of the mean count so far, which outputs of zero stand for."""
        return LogMean(outputs)

    @classmethod
    def needs_scaling(cls, targets: Tensor) -> bool:
        """Return true, because without an offset the first rates are one, whatever the counts."""
        return True

    def answer(self) -> Tensor:
        """Return the rate, positive, (B,) of a single output."""
        mean = self.mean()
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).squeeze(-1)

    def predictive(self, covariance: Tensor) -> Tensor:
        """Return the mean of a log-normal rate, exp(eta + C_kk / 2), (B, m)."""
        variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
        return rate_of(self._above_offset(upcast(self.outputs)) + 0.5 * variance)

    def columns(
        self, coding: Coding, covariance: Tensor | None = None, predictive: Tensor | None = None
    ) -> dict[str, list[Any]]:
        """Return the expected count, how uncertain its logarithm is, and its mean over that uncertainty."""
        found: dict[str, list[Any]] = {"prediction": self.answer().tolist()}
        if covariance is not None:
            deviation = covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
            found["log_rate_std"] = deviation.squeeze(-1).tolist()
        return found if predictive is None else {**found, "prediction_bayes": predictive.squeeze(-1).tolist()}

    def summary(self, coding: Coding) -> str:
        """Return mean and range of the expected counts."""
        mean = self.mean()
        return f"{len(mean)} rows; mean count {mean.mean():.4g}, from {mean.min():.4g} to {mean.max():.4g}"

    def _above_offset(self, z: Tensor) -> Tensor:
        return z if self.offset is None else z + self.offset.to(z.dtype)

    def _slope(self) -> Tensor:
        """Return the derivative of the rates by the outputs, (B, m): the rates themselves, up to ``LARGEST``."""
        return self._above_offset(upcast(self.outputs)).clamp_max(LARGEST).exp()

    def _is_valid(self, target: Tensor) -> Tensor:
        return (target >= 0) | ~target.isfinite()

    def _shaped(self, target: Tensor) -> Tensor:
        return target.reshape(self.outputs.shape).to(upcast(self.outputs).dtype)


class LogMean(StreamState):
    """Logarithm of the mean count so far, ln((1 + sum of y) / (1 + n)), in float64: zero before the first.

    Args:
        outputs: m.
    """

    total: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(outputs, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def value(self) -> Tensor:
        """Return the offset, (m,)."""
        return ((1 + self.total) / (1 + self.count.double())).log()

    def see_targets(self, target: Tensor) -> None:
        """Take in the counts of a batch."""
        self.total += target.detach().double().reshape(-1, len(self.total)).sum(0)
        self.count += len(target)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return one and the offset."""
        return torch.ones_like(self.total), self.value()
