"""Likelihoods: what the model's outputs say about a target, in the coordinates a filter observes.

Shapes throughout: ``B`` batch, ``m`` outputs, ``d`` observation coordinates.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

OBSERVATIONS = ("probabilities", "logits")


class Innovation(NamedTuple):
    """What a filter needs of one batch.

    Attributes:
        residual: e = y - h(x, theta) in observation coordinates, (B, d).
        cotangents: Derivative of each observation coordinate with respect to the model's outputs, (B, d, m).
            Pulled back through the model they are the rows of the Jacobian H.
        observed: y in the same coordinates, (B, d).
        factor: L with LL' = F, the likelihood's own precision of the natural parameters, (B, d, k); None where
            something else is observed.
        has_residual_probe: Whether the last coordinate is a probe of what was left out; see :func:`leading`.
        projection: T, (B, k, d), TT' = I, where k directions of a sample's d coordinates are observed; None for all.
    """

    residual: Tensor
    cotangents: Tensor
    observed: Tensor
    factor: Tensor | None = None
    has_residual_probe: bool = False
    projection: Tensor | None = None

    @property
    def left_out(self) -> int:
        """How many coordinates of a sample are not observed, nor probed."""
        return 0 if self.projection is None else self.projection.shape[2] - self.projection.shape[1]

    @property
    def is_projected(self) -> bool:
        """Whether the observation is a projection of the outputs."""
        return self.has_residual_probe or self.projection is not None

    def project(self, T: Tensor) -> Innovation:
        """The same in the directions T alone, (B, k, d), with k columns in the factor or fewer."""
        assert self.factor is not None
        residual, observed = ((T @ vector.unsqueeze(-1)).squeeze(-1) for vector in (self.residual, self.observed))
        factor = torch.linalg.qr((T @ self.factor).mT, mode="r").R.mT
        return Innovation(residual, T @ self.cotangents, observed, factor, projection=T)


class Likelihood(ABC):
    """Distribution of the target given the model's outputs, one row a sample.

    Args:
        outputs: Model outputs with their graph attached, (B, m).

    Raises:
        ValueError: If the outputs are not a (B, m) tensor.
    """

    def __init__(self, outputs: Tensor) -> None:
        if outputs.dim() != 2:
            raise ValueError(f"a likelihood takes outputs of shape (batch, outputs), got {tuple(outputs.shape)}")
        self.outputs = outputs

    def observe(self, target: Tensor) -> Observation:
        """Bind the likelihood to the target that was observed, (B,) or (B, m)."""
        return Observation(self, target)

    def at(self, outputs: Tensor) -> Self:
        """The same likelihood of other outputs, (B, m)."""
        other = copy.copy(self)
        other.outputs = outputs
        return other

    @abstractmethod
    def mean(self) -> Tensor:
        """Expected observation, (B, m)."""

    @abstractmethod
    def nll(self, target: Tensor) -> Tensor:
        """Negative log-likelihood in nats (up to the target's constant), averaged over the batch, ()."""

    @abstractmethod
    def innovation(self, target: Tensor, observation: str = "probabilities") -> Innovation:
        """Residual and cotangents in observation coordinates."""

    @abstractmethod
    def natural(self, target: Tensor, tolerance: float = 0.0, likely: int = 0) -> Innovation:
        """The target observed through the natural parameters eta, whose precision is F = Cov(y).

        The residual y - E y is the gradient of the log-likelihood with respect to eta.

        Args:
            target: What was observed.
            tolerance: Trace of F that may be left out, where that saves rows of the Jacobian.
            likely: How many of a sample's classes are told apart, where that saves rows; 0 for all.
        """

    def contrasts(self, target: Tensor, k: int) -> Tensor | None:
        """Return orthonormal directions in observation coordinates that distinguish k classes, (B, k, d).

        None where there is nothing to merge, or k is too large to save anything.

        Args:
            target: What was observed; its class is one of the k.
            k: How many classes are distinguished.
        """
        return None

    @abstractmethod
    def self_concordance_bound(self, direction: Tensor) -> Tensor:
        """How fast the curvature of the log-likelihood can change along a direction of the outputs, ().

        The least M known with |D^3 l[u, v, v]| <= M D^2 l[v, v] for all v, where l is the negative log-likelihood of
        the batch and u the direction, (B, m): generalised self-concordance (Sun & Tran-Dinh 2019).
        """

    @abstractmethod
    def covariance(self) -> Tensor:
        """Covariance of the observation, in observation coordinates of the mean, (B, d, d)."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one target a sample from the model's own distribution, shaped like a target."""


@dataclass(frozen=True)
class Observation:
    """A likelihood bound to its target; what ``closure()`` hands to ``optimizer.step``.

    Attributes:
        likelihood: The likelihood over the model's outputs.
        target: Class indices (B,) for ``Categorical``, values (B,) or (B, m) for ``Gaussian``.
    """

    likelihood: Likelihood
    target: Tensor

    @property
    def outputs(self) -> Tensor:
        """Model outputs with their graph, (B, m)."""
        return self.likelihood.outputs

    def nll(self) -> Tensor:
        """Mean negative log-likelihood of the target, ()."""
        return self.likelihood.nll(self.target)

    def innovation(self, observation: str = "probabilities") -> Innovation:
        """Residual (B, d) and cotangents (B, d, m) of the target."""
        return self.likelihood.innovation(self.target, observation)

    def natural(self, tolerance: float = 0.0, likely: int = 0) -> Innovation:
        """The target observed through the natural parameters."""
        return self.likelihood.natural(self.target, tolerance, likely)

    def at(self, outputs: Tensor) -> Observation:
        """The same target under other outputs, (B, m)."""
        return replace(self, likelihood=self.likelihood.at(outputs))


def computing(outputs: Tensor) -> Tensor:
    """Detached outputs in at least float32, so that half-precision models get full-precision residuals."""
    outputs = outputs.detach()
    return outputs if outputs.dtype == torch.float64 else outputs.float()


class Gaussian(Likelihood):
    """Values with unit variance: the regression likelihood, d = m.

    Args:
        outputs: Predicted values, (B, m).
    """

    def mean(self) -> Tensor:
        """Predicted values, (B, m)."""
        return computing(self.outputs)

    def nll(self, target: Tensor) -> Tensor:
        """Half the squared error, summed over outputs and averaged over the batch, ()."""
        return 0.5 * (self.outputs - self._shaped(target)).square().sum(-1).mean()

    def innovation(self, target: Tensor, observation: str = "probabilities") -> Innovation:
        """Residual y - h and identity cotangents; ``observation`` makes no difference for values."""
        observed = self._shaped(target)
        return Innovation(observed - self.mean(), self.covariance(), observed)

    def natural(self, target: Tensor, tolerance: float = 0.0, likely: int = 0) -> Innovation:
        """The values are their own natural parameters, F = I; nothing can be left out."""
        return self.innovation(target)._replace(factor=self.covariance())

    def self_concordance_bound(self, direction: Tensor) -> Tensor:
        """Zero: a parabola."""
        return direction.new_zeros(())

    def covariance(self) -> Tensor:
        """Identity, (B, m, m)."""
        mean = self.mean()
        return torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device).expand(len(mean), -1, -1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw values around the mean, (B, m)."""
        mean = self.mean()
        return mean + torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)

    def _shaped(self, target: Tensor) -> Tensor:
        return target.reshape(self.outputs.shape).to(self.mean().dtype)
