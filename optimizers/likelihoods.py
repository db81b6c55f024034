"""Likelihoods: what the model's outputs say about a target, in the coordinates a filter observes.

Shapes throughout: ``B`` batch, ``m`` outputs, ``d`` observation coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

OBSERVATIONS = ("probabilities", "logits")


class Innovation(NamedTuple):
    """What a filter needs of one batch.

    Attributes:
        residual: e = y - h(x, theta) in observation coordinates, (B, d).
        cotangents: Derivative of each observation coordinate with respect to the model's outputs, (B, d, m).
            Pulled back through the model they are the rows of the Jacobian H.
    """

    residual: Tensor
    cotangents: Tensor


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


@lru_cache(maxsize=16)
def simplex_basis(m: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal basis U of the complement of the vector of ones, (m, m - 1), by Helmert's construction.

    Probabilities and residuals of m classes sum to a constant, so they vary in these m - 1 directions alone.
    U'U = I and UU' = I - 11'/m.
    """
    index = torch.arange(1, m, dtype=torch.float64)
    scale = 1 / (index * (index + 1)).sqrt()
    upper = torch.triu(torch.ones(m, m - 1, dtype=torch.float64)) * scale
    subdiagonal = torch.zeros(m, m - 1, dtype=torch.float64)
    subdiagonal[1:] = torch.diag(index * scale)
    return (upper - subdiagonal).to(dtype=dtype, device=device)


def _computing(outputs: Tensor) -> Tensor:
    """Detached outputs in at least float32, so that half-precision models get full-precision residuals."""
    outputs = outputs.detach()
    return outputs if outputs.dtype == torch.float64 else outputs.float()


class Categorical(Likelihood):
    """Softmax over m classes.

    Observed as ``probabilities`` (LoKO eq. 6): y is one-hot, h the softmax, and the m - 1 coordinates are those
    of :func:`simplex_basis`. Observed as ``logits``: y is ``target_scale`` times one-hot and h the logits, m
    coordinates; of two classes the difference of the logits is observed, against +-``target_scale``.

    Args:
        outputs: Logits, (B, m).
        target_scale: Scale of the target where logits are observed; default 1 for more than two classes and
            2 for two.

    Raises:
        ValueError: If there are fewer than two classes.
    """

    def __init__(self, outputs: Tensor, target_scale: float | None = None) -> None:
        super().__init__(outputs)
        self.classes = outputs.shape[1]
        if self.classes < 2:
            raise ValueError("Categorical takes at least two logits; use Gaussian for a single value")
        self.target_scale = target_scale if target_scale is not None else (2.0 if self.classes == 2 else 1.0)

    def mean(self) -> Tensor:
        """Class probabilities, (B, m)."""
        return _computing(self.outputs).softmax(-1)

    def nll(self, target: Tensor) -> Tensor:
        """Cross-entropy, averaged over the batch, ()."""
        return torch.nn.functional.cross_entropy(self.outputs.float() if self._half else self.outputs, target)

    def innovation(self, target: Tensor, observation: str = "probabilities") -> Innovation:
        """Residual and cotangents of the probabilities (d = m - 1) or the logits (d = m; 1 for two classes).

        Raises:
            ValueError: If ``observation`` is neither ``probabilities`` nor ``logits``.
        """
        if observation == "probabilities":
            return self._observe_probabilities(target)
        if observation == "logits":
            return self._observe_logits(target)
        raise ValueError(f"observation must be one of {OBSERVATIONS}, got {observation!r}")

    def covariance(self) -> Tensor:
        """U'(diag(p) - pp')U, the softmax covariance in the m - 1 coordinates, (B, m - 1, m - 1)."""
        p, basis = self.mean(), self._basis()
        return basis.mT @ (torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)) @ basis

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw labels from the softmax, (B,)."""
        return torch.multinomial(self.mean(), 1, generator=generator).squeeze(-1)

    @property
    def _half(self) -> bool:
        return self.outputs.dtype in (torch.float16, torch.bfloat16)

    def _basis(self) -> Tensor:
        dtype = torch.float64 if self.outputs.dtype == torch.float64 else torch.float32
        return simplex_basis(self.classes, dtype, self.outputs.device)

    def _observe_probabilities(self, target: Tensor) -> Innovation:
        p, basis = self.mean(), self._basis()
        one_hot = torch.nn.functional.one_hot(target, self.classes).to(p.dtype)
        # d(u'p)/dz = (diag(p) - pp') u, for every column u of the basis
        cotangents = p.unsqueeze(1) * (basis.mT.unsqueeze(0) - (p @ basis).unsqueeze(-1))
        return Innovation((one_hot - p) @ basis, cotangents)

    def _observe_logits(self, target: Tensor) -> Innovation:
        z = _computing(self.outputs)
        if self.classes == 2:
            sign = 2 * target.to(z.dtype) - 1
            residual = (self.target_scale * sign - (z[:, 1] - z[:, 0])).unsqueeze(-1)
            return Innovation(residual, z.new_tensor([[[-1.0, 1.0]]]).expand(len(z), 1, 2))
        one_hot = torch.nn.functional.one_hot(target, self.classes).to(z.dtype)
        identity = torch.eye(self.classes, dtype=z.dtype, device=z.device)
        return Innovation(self.target_scale * one_hot - z, identity.expand(len(z), -1, -1))


class Gaussian(Likelihood):
    """Values with unit variance: the regression likelihood, d = m.

    Args:
        outputs: Predicted values, (B, m).
    """

    def mean(self) -> Tensor:
        """Predicted values, (B, m)."""
        return _computing(self.outputs)

    def nll(self, target: Tensor) -> Tensor:
        """Half the squared error, summed over outputs and averaged over the batch, ()."""
        return 0.5 * (self.outputs - self._shaped(target)).square().sum(-1).mean()

    def innovation(self, target: Tensor, observation: str = "probabilities") -> Innovation:
        """Residual y - h and identity cotangents; ``observation`` makes no difference for values."""
        identity = torch.eye(self.outputs.shape[1], dtype=self.mean().dtype, device=self.outputs.device)
        return Innovation(self._shaped(target) - self.mean(), identity.expand(len(self.outputs), -1, -1))

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
