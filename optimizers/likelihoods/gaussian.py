"""The Gaussian likelihood: numbers of any scale, with a noise variance that is one or estimated from the stream.

Shapes throughout: ``B`` batch, ``m`` outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from .base import Innovation, Likelihood, Observation, identity_cotangents, upcast, upcast_graph
from .tasks import Coding, Encoded, Metric, StreamState, read_numbers

MEMORY = 500
"""Samples over which squared residuals are averaged."""

PRIOR = 10
"""Weight in samples of the average's first value, the variance of the targets."""

LEAST_NOISE, MOST_NOISE = 0.01, 0.25
"""Bounds of the noise variance of the updates, as a share of the targets' variance.

The lower one bounds the gradient of the log-likelihood. Before a model has learned anything its residuals are as large
as the targets, and to take them for noise would keep it from learning: on STS-B (500 samples, MiniLM) Filtune then
reached a Pearson correlation of 20 on the validation pairs, against 54 with the upper bound.
"""


MOST_RESIDUAL = 25.0
"""Largest squared residual of one target in the average, in units of the targets' variance: five standard deviations.

One diverged prediction would otherwise raise the noise estimate for the rest of the run.
"""

ORDINARY = (0.1, 10.0)
"""Standard deviations of targets that are learned as they are, if their mean is not beyond the larger one either.

Ratings and similarities are such. With LoRA on MiniLM, 500 samples of STS-B, seeds 0 and 1, Filtune validates at a
Pearson correlation of 59 and 56 on the labels 0 to 5 as they are, of 54 and 50 in running units. House prices are not:
there the running units bring Filtune from 16 to 95, AdamW from 23 to 94.
"""


class Scaling(NamedTuple):
    """Units of the targets, each (m,) in float64: y = location + scale (z + sqrt(variance) epsilon).

    Attributes:
        location: Mean of the targets.
        scale: Their standard deviation.
        variance: Noise variance of the updates, in units of scale^2.
        residual: Mean square of the residuals before each update, in the same units: the error of a new prediction.
    """

    location: Tensor
    scale: Tensor
    variance: Tensor
    residual: Tensor


class Gaussian(Likelihood):
    r"""Numbers with Gaussian noise: the regression likelihood, d = m.

    .. math:: y = \mu + s (z + \sqrt{v}\, \epsilon), \quad \epsilon \sim N(0, I)

    with the outputs z. Without ``scaling``, mu = 0 and s = v = 1. With t = (y - mu) / s, the coordinates are z, their
    residual t - z where the mean is observed, and (t - z) / v with precision F = 1 / v through the natural parameters.

    Args:
        outputs: Predicted values in units of the scaling, (B, m).
        scaling: Location, scale and noise variance of the targets.
    """

    kind = "regression"
    online_metrics: ClassVar = ("pearson",)
    validation_metrics: ClassVar = ("pearson", "spearman")

    def __init__(self, outputs: Tensor, scaling: Scaling | None = None) -> None:
        super().__init__(outputs)
        self.scaling = scaling

    @classmethod
    def of(cls, outputs: Tensor, value: Any = None) -> Self:
        """Return the likelihood of outputs in units of a :class:`Scaling`."""
        return cls(outputs, value)

    def mean(self) -> Tensor:
        """Return the predicted values in the units of the targets, (B, m)."""
        z = upcast(self.outputs)
        return z if self.scaling is None else self._of_scaling("location") + self._of_scaling("scale") * z

    def nll(self, target: Tensor) -> Tensor:
        """Return (t - z)^2 / 2v + ln(v) / 2 + ln(s), summed over outputs and averaged over the batch, ().

        It lacks the constant ln(2 pi) / 2. With unit variance it is half the squared error.
        """
        square = 0.5 * (upcast_graph(self.outputs) - self._standardized(target)).square()
        if self.scaling is None:
            return square.sum(-1).mean()
        v = self._of_scaling("variance")
        return (square / v + 0.5 * v.log() + self._of_scaling("scale").log()).sum(-1).mean()

    def innovation(self, target: Tensor, observation: str = "probabilities") -> Innovation:
        """Return the residual t - z and identity cotangents; ``observation`` makes no difference for values."""
        z, observed = upcast(self.outputs), self._standardized(target)
        return Innovation(observed - z, identity_cotangents(z), observed)

    def natural(self, target: Tensor) -> Innovation:
        """Return the residual (t - z) / v, with F = I / v; nothing can be left out."""
        plain = self.innovation(target)
        if self.scaling is None:
            return plain._replace(factor=plain.cotangents)
        v = self._of_scaling("variance")
        return Innovation(plain.residual / v, plain.cotangents, plain.observed / v, plain.cotangents * v.rsqrt())

    def self_concordance_bound(self, direction: Tensor) -> Tensor:
        """Return zero, because the log-likelihood is a parabola."""
        return direction.new_zeros(())

    def covariance(self) -> Tensor:
        """Return v I, (B, m, m)."""
        identity = identity_cotangents(upcast(self.outputs))
        return identity if self.scaling is None else identity * self._of_scaling("variance")

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw values around the mean, in the units of the targets, (B, m)."""
        mean = self.mean()
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        if self.scaling is None:
            return mean + noise
        return mean + self._of_scaling("scale") * self._of_scaling("variance").sqrt() * noise

    @classmethod
    def encode(cls, values: Sequence[Any], coding: Coding) -> Encoded:
        """Return finite numbers, (N,) float32."""
        return read_numbers(values)

    @classmethod
    def metrics(cls, outputs: int) -> Mapping[str, Metric]:
        """Return Pearson's and Spearman's correlation, and the errors in the units of the targets."""
        several, error = {"num_outputs": outputs}, "torchmetrics.regression."
        return {
            "pearson": Metric(error + "PearsonCorrCoef", several, "answer"),
            "spearman": Metric(error + "SpearmanCorrCoef", several, "answer"),
            "rmse": Metric(error + "MeanSquaredError", {**several, "squared": False}, "answer", False, False),
            "mae": Metric(error + "MeanAbsoluteError", several, "answer", False, False),
        }

    @classmethod
    def build_state(cls, outputs: int) -> StreamState:
        """Return the running location, scale and residual variance of the targets."""
        return TargetScaling(outputs)

    @classmethod
    def needs_scaling(cls, targets: Tensor) -> bool:
        """Return whether mean or standard deviation of the targets are far from one; see ``ORDINARY``."""
        y = targets.double()
        least, most = ORDINARY
        deviation = float(y.std(correction=0))
        return not (float(y.mean().abs()) <= most and (deviation == 0 or least <= deviation <= most))

    def answer(self) -> Tensor:
        """Return the mean, (B,) of a single output."""
        return self.mean().squeeze(-1)

    def predictive(self, covariance: Tensor) -> Tensor:
        """Return the mean, which uncertain outputs leave as it is, (B, m)."""
        return self.mean()

    def columns(
        self, coding: Coding, covariance: Tensor | None = None, predictive: Tensor | None = None
    ) -> dict[str, list[Any]]:
        """Return the value, its standard deviation by the parameters' uncertainty, and that of a new target."""
        found: dict[str, list[Any]] = {"prediction": self.answer().tolist()}
        scale: Tensor | float = 1.0 if self.scaling is None else self._of_scaling("scale")
        if covariance is not None:
            variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
            found["std"] = (scale * variance.sqrt()).squeeze(-1).tolist()
        if self.scaling is not None:
            error = self._of_scaling("residual").expand(self.outputs.shape)
            found["predictive_std"] = (scale * error.sqrt()).squeeze(-1).tolist()
        return found

    def summary(self, coding: Coding) -> str:
        """Return mean and range of the predictions."""
        mean = self.mean()
        return f"{len(mean)} rows; mean {mean.mean():.4g}, from {mean.min():.4g} to {mean.max():.4g}"

    def _standardized(self, target: Tensor) -> Tensor:
        target = target.reshape(self.outputs.shape).to(upcast(self.outputs).dtype)
        if self.scaling is None:
            return target
        return (target - self._of_scaling("location")) / self._of_scaling("scale")

    def _of_scaling(self, name: str) -> Tensor:
        return getattr(self.scaling, name).to(upcast(self.outputs).dtype)


class TargetScaling(StreamState):
    r"""Running location and scale of the targets, and the mean square of their residuals, in float64.

    With n targets seen, mean mu and sum of squared deviations M2 (Welford 1962; Chan, Golub & LeVeque 1983):

    .. math:: s^2 = \frac{M_2 + y_1^2 / n^5}{n - 1 + 1 / n^5}

    where the first target's square stands for a scale that one target alone does not give, and is soon forgotten. The
    mean of the squared residuals (t - z)^2 before each update, in units of s^2, is over ``MEMORY`` samples and starts
    at one; each is ``MOST_RESIDUAL`` at most. The noise variance v is that mean between ``LEAST_NOISE`` and
    ``MOST_NOISE``.

    A target is added before the update that uses it, which bounds its standardised size by the square root of n.

    Args:
        outputs: m.
    """

    location: Tensor
    deviations: Tensor
    first: Tensor
    residual: Tensor
    updates: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        for name, start in (("location", 0.0), ("deviations", 0.0), ("first", 0.0), ("residual", 1.0)):
            self.register_buffer(name, torch.full((outputs,), start, dtype=torch.float64))
        for name in ("count", "updates"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def value(self) -> Scaling:
        """Return the current scaling."""
        n = self.count.clamp_min(1).double()
        share = n**-5
        scale = ((self.deviations + share * self.first.square()) / (n - 1 + share)).sqrt()
        noise = self.residual.clamp(LEAST_NOISE, MOST_NOISE)
        return Scaling(self.location.clone(), torch.where(scale > 0, scale, 1.0), noise, self.residual.clone())

    def see_targets(self, target: Tensor) -> None:
        """Take in the targets of a batch, (B,) or (B, m), which are finite."""
        y = target.detach().double().reshape(-1, len(self.location))
        mean, n = y.mean(0), self.count + len(y)
        delta, share = mean - self.location, len(y) / n.double()
        self.first.copy_(torch.where(self.count > 0, self.first, y[0]))
        self.deviations += (y - mean).square().sum(0) + delta.square() * self.count * share
        self.location += delta * share
        self.count.copy_(n)

    def see_residuals(self, observation: Observation) -> None:
        """Average in the squared residuals of a batch, each bounded by ``MOST_RESIDUAL``.

        Where one is not finite, the average stays as it is.
        """
        square = observation.innovation().residual.double().square()
        square = torch.where(square.isfinite(), square.clamp_max(MOST_RESIDUAL), torch.nan).mean(0)
        B = len(observation.target)
        weight = (PRIOR + self.updates).clamp_max(MEMORY).double()
        moved = self.residual + (square - self.residual) * B / (weight + B)
        self.residual.copy_(torch.where(moved.isfinite(), moved, self.residual))
        self.updates += B

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return scale and location."""
        value = self.value()
        return value.scale, value.location
