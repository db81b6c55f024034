r"""Predictions of batches: the likelihood of the outputs, and their covariance where a filter knows it.

To first order in the uncertainty of the parameters, with the filter's covariance P, the outputs are z ~ N(mu, C) with

.. math:: C = J P J^\top, \quad J = \partial z / \partial \theta                          (1)

Shapes: ``B`` batch, ``m`` outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.predictive import SCALES, cubature_predictive, tempered_predictive
from filtune.optimizers.likelihoods import Likelihood
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .restore import Restored

MOST_ELEMENTS = 1 << 26
"""Most elements of the Jacobian of one batch."""

SAMPLES_ON_CPU = 4
"""Most samples at once with a covariance: a batch of 32 texts took four times as long per text as one of 4."""


class OutputCovariance:
    """Covariance of the outputs, equation (1), computed by the filter itself.

    Args:
        optimizer: A filter.
        model: The model it has trained.
    """

    def __init__(self, optimizer: KalmanOptimizer, model: nn.Module) -> None:
        self._optimizer = optimizer.attach(model)
        self._parameters = sum(param.numel() for param in optimizer.trained())

    def batch_size(self, outputs: int) -> int:
        """Return how many samples with m outputs a batch may have."""
        return max(1, MOST_ELEMENTS // (outputs * self._parameters))

    def __call__(self, likelihood: Likelihood) -> Tensor:
        """Return C, (B, m, m), given the likelihood of outputs with their graph, (B, m)."""
        return self._optimizer.output_covariance(likelihood)

    def factorised(self, likelihood: Likelihood) -> tuple[Tensor | None, Tensor | None]:
        """Return C unless its rows do not fit, and G, (B, m, k), where the filter observes a few directions only."""
        rows = likelihood.outputs.shape[1] * self._parameters
        return self._optimizer.output_uncertainty(likelihood, whole=rows <= MOST_ELEMENTS)


@dataclass(frozen=True)
class Prediction:
    """Outputs of some samples, and their covariance where there is one.

    Attributes:
        likelihood: Of the outputs, (B, m).
        covariance: C, (B, m, m); None also where it has more elements than fit, and the factor alone is known.
        tempering_log_weights: Log weights of ``SCALES`` times C by how well each predicted the stream, (K,); None
            where that is not known, and C is taken as it is.
        factor: G, (B, m, k), where the filter observes a few directions of the outputs only, whose covariance is GG':
            probabilities are then averaged as in training, by cubature.
    """

    likelihood: Likelihood
    covariance: Tensor | None = None
    tempering_log_weights: Tensor | None = None
    factor: Tensor | None = None

    @property
    def outputs(self) -> Tensor:
        """Outputs, (B, m)."""
        return self.likelihood.outputs

    @property
    def predictive(self) -> Tensor | None:
        """Posterior predictive mean, such as probabilities, (B, m); None without a covariance."""
        if self.factor is not None:
            scaled = cubature_predictive(self.outputs, self.factor)
            known = self.tempering_log_weights
            return scaled[-1] if known is None else tempered_predictive(scaled, known)
        if self.covariance is None:
            return None
        if self.tempering_log_weights is None:
            return self.likelihood.predictive(self.covariance)
        weights = self.tempering_log_weights.softmax(0)
        means = (self.likelihood.predictive(factor * self.covariance) for factor in SCALES)
        return torch.stack([weight * mean for weight, mean in zip(weights, means, strict=True)]).sum(0)

    @classmethod
    def join(cls, parts: Iterable[Prediction]) -> Prediction:
        """Return all samples of several batches."""
        parts = list(parts)
        outputs, covariances = zip(*((part.outputs, part.covariance) for part in parts), strict=True)
        covariance = None if covariances[0] is None else torch.cat(covariances)
        factors = [part.factor for part in parts if part.factor is not None]
        likelihood = parts[0].likelihood.at(torch.cat(outputs))
        return cls(likelihood, covariance, parts[0].tempering_log_weights, torch.cat(factors) if factors else None)


class Predictor:
    """A run's model, with its filter's covariance if it has one.

    Args:
        run: The run.
        uncertainty: Whether to use the covariance, which costs about what a training step does.
    """

    def __init__(self, run: Restored, uncertainty: bool = True) -> None:
        self.run = run
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.backbone = run.backbone.to(self.device)
        self.has_covariance = issubclass(run.optimizer_class, KalmanOptimizer)
        self.covariance: OutputCovariance | None = None
        self.tempering_log_weights: Tensor | None = None
        if self.has_covariance and uncertainty:
            optimizer = run.optimizer()
            assert isinstance(optimizer, KalmanOptimizer)
            self.covariance = OutputCovariance(optimizer, self.backbone)
            log_weights = optimizer.tempering_log_weights()
            self.tempering_log_weights = None if log_weights is None else log_weights.float().cpu()

    def batch_size(self, asked: int) -> int:
        """Return the batch size, bounded where the Jacobian would not fit or padding would cost more than it gains."""
        if self.covariance is None:
            return asked
        most = self.covariance.batch_size(self.run.task.outputs)
        return min(asked, most, SAMPLES_ON_CPU) if self.device.type == "cpu" else min(asked, most)

    def __call__(self, batch: dict[str, Any]) -> Prediction:
        """Predict a batch."""
        # of the kinds of attention, this one has a backward pass that takes many rows at once
        kernel = sdpa_kernel(SDPBackend.MATH) if self.covariance else nullcontext()
        with kernel, torch.set_grad_enabled(self.covariance is not None):
            outputs = self.backbone(self.backbone.preprocess(batch))
            found = self.covariance.factorised(self.run.likelihood(outputs)) if self.covariance else (None, None)
        covariance, factor = (None if each is None else each.float().cpu() for each in found)
        likelihood = self.run.likelihood(outputs.detach().float().cpu())
        return Prediction(likelihood, covariance, self.tempering_log_weights, factor)


def columns(prediction: Prediction, run: Restored) -> dict[str, list[Any]]:
    """Return the columns of a table of predictions, by name."""
    return prediction.likelihood.columns(run.coding, prediction.covariance, prediction.predictive)
