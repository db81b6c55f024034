"""A dense extended Kalman filter in float64, written from LoKO's equations 3, 7, 11 and 12 alone: the oracle of LoKO.

It shares no code with the optimizer. The covariance is a matrix, the Jacobian comes from ``torch.func.jacrev``, S is
inverted by ``torch.linalg.inv`` (or another function), and softmax is observed through a basis of its own.

Shapes: ``B`` batch, ``m`` outputs, ``d`` observation coordinates, ``n`` state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

Noise = Literal["constant", "ema-1", "ema-2"]


def flat(model: nn.Module) -> Tensor:
    """A copy of the trained parameters as one vector in float64, (n,)."""
    return torch.cat([p.detach().double().flatten() for p in model.parameters() if p.requires_grad])


def outputs_of(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The model as a function of its trained parameters: theta (n,) -> outputs (B, m)."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def call(theta: Tensor) -> Tensor:
        parts = theta.split([p.numel() for _, p in trained])
        named = {name: part.view_as(p) for (name, p), part in zip(trained, parts, strict=True)}
        return functional_call(model, named, (x,))

    return call


def ones_complement(m: int, seed: int = 0) -> Tensor:
    """An arbitrary orthonormal basis of the complement of ones, (m, m - 1), by QR."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(m, m, dtype=torch.float64, generator=generator)
    columns[:, 0] = 1
    return torch.linalg.qr(columns).Q[:, 1:]


def one_hot(target: Tensor, m: int) -> Tensor:
    """(B,) -> (B, m) in float64."""
    return torch.nn.functional.one_hot(target, m).double()


class DenseFilter:
    """An extended Kalman filter with identity transition, no process noise and an estimated observation noise.

    Args:
        theta: Initial state, (n,).
        P: Initial covariance, (n, n).
        R: Initial observation noise, (d, d).
        beta: Forgetting factor of R.
        noise: ``ema-1`` (eq. 7), ``ema-2`` (eq. 12), or R as it is.
        diagonal: Restrict P to its diagonal after every step.
        inverse: How S is inverted.
    """

    def __init__(
        self,
        theta: Tensor,
        P: Tensor,
        R: Tensor,
        beta: float = 0.95,
        noise: Noise = "ema-2",
        diagonal: bool = True,
        inverse: Callable[[Tensor], Tensor] = torch.linalg.inv,
    ) -> None:
        self.theta, self.P, self.R = theta.clone(), P.clone(), R.clone()
        self.beta, self.noise, self.diagonal, self.inverse = beta, noise, diagonal, inverse
        self.condition = 1.0

    @property
    def p(self) -> Tensor:
        """The variances, (n,)."""
        return self.P.diagonal()

    def update(self, e: Tensor, H: Tensor) -> None:
        """Observe a batch jointly: residuals (B, d), Jacobian (B, d, n)."""
        B, d = e.shape
        estimates = []
        for residual, jacobian in zip(e, H, strict=True):
            estimate = torch.outer(residual, residual)
            if self.noise == "ema-2":
                estimate = estimate + jacobian @ self.P @ jacobian.T
            estimates.append(estimate)
        if self.noise != "constant":
            self.R = self.beta * self.R + (1 - self.beta) * torch.stack(estimates).mean(0)
        stacked = H.reshape(B * d, -1)
        S = stacked @ self.P @ stacked.T + torch.block_diag(*[self.R] * B)
        self.condition = max(self.condition, float(torch.linalg.cond(S)))
        K = self.P @ stacked.T @ self.inverse(S)
        self.theta = self.theta + K @ e.reshape(-1)
        self.P = self.P - K @ stacked @ self.P
        if self.diagonal:
            self.P = torch.diag(self.P.diagonal())

    def observe_values(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """One step on values y (B, m)."""
        call = outputs_of(model, x)
        self.update(y - call(self.theta), jacrev(call)(self.theta))

    def observe_probabilities(self, model: nn.Module, x: Tensor, target: Tensor, basis: Tensor) -> None:
        """One step on labels (B,), the probabilities seen in the coordinates ``basis`` (m, d)."""

        def h(theta: Tensor) -> Tensor:
            return outputs_of(model, x)(theta).softmax(-1) @ basis

        self.update(one_hot(target, len(basis)) @ basis - h(self.theta), jacrev(h)(self.theta))

    def observe_logits(self, model: nn.Module, x: Tensor, target: Tensor, scale: float) -> None:
        """One step on labels (B,), seen as logits: scale * one-hot, or +-scale for the difference of two."""

        def h(theta: Tensor) -> Tensor:
            z = outputs_of(model, x)(theta)
            return z if z.shape[1] > 2 else z[:, 1:] - z[:, :1]

        m = outputs_of(model, x)(self.theta).shape[1]
        wanted = scale * (one_hot(target, m) if m > 2 else torch.where(target == 1, 1.0, -1.0).double()[:, None])
        self.update(wanted - h(self.theta), jacrev(h)(self.theta))
