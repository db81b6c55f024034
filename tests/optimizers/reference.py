"""A dense extended Kalman filter in float64, written from LoKO's equations 2, 3, 7, 11, 12 and GRNG's 15 alone.

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
Estimator = Callable[[Tensor, Tensor], Tensor]


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


def kept(model: nn.Module, covariance: str) -> Tensor:
    """Which entries of P a covariance keeps, (n, n) of zeros and ones."""
    parts = []
    for p in model.parameters():
        blocks = {"diagonal": p.numel(), "block_per_neuron": len(p)}.get(covariance, 1)
        parts += [torch.ones(p.numel() // blocks, p.numel() // blocks, dtype=torch.float64)] * blocks
    whole = torch.block_diag(*parts)
    return torch.ones_like(whole) if covariance == "full" else whole


class DenseFilter:
    """An extended Kalman filter with identity transition and an estimated observation noise.

    Args:
        theta: Initial state, (n,).
        P: Initial covariance, (n, n).
        R: Initial observation noise, (d, d).
        beta: Forgetting factor of R.
        noise: ``ema-1`` (eq. 7), ``ema-2`` (eq. 12), R as it is, or a function of the residuals (B, d) and every
            sample's HPH' (B, d, d).
        diagonal: Restrict P to its diagonal after every step.
        inverse: How S is inverted.
        blocks: Restrict P to these entries instead, (n, n) of zeros and ones.
        q: Process noise, P <- P + q I before every step.
        rho: Regularisation of GRNG eq. 15: the noise is (R^-1 + rho I)^-1.
    """

    def __init__(
        self,
        theta: Tensor,
        P: Tensor,
        R: Tensor,
        beta: float = 0.95,
        noise: Noise | Estimator = "ema-2",
        diagonal: bool = True,
        inverse: Callable[[Tensor], Tensor] = torch.linalg.inv,
        blocks: Tensor | None = None,
        q: float = 0.0,
        rho: float = 0.0,
    ) -> None:
        self.theta, self.P, self.R = theta.clone(), P.clone(), R.clone()
        self.beta, self.noise, self.inverse, self.q, self.rho = beta, noise, inverse, q, rho
        self.blocks = torch.eye(len(P), dtype=P.dtype) if diagonal and blocks is None else blocks
        self.condition = 1.0

    @property
    def p(self) -> Tensor:
        """The variances, (n,)."""
        return self.P.diagonal()

    def update(self, e: Tensor, H: Tensor, own: Tensor | None = None) -> None:
        """Observe a batch jointly: residuals (B, d), Jacobian (B, d, n), and its own noise (B, d, d) in place of R."""
        B, d = e.shape
        self.P = self.P + self.q * torch.eye(len(self.P), dtype=self.P.dtype)
        estimates = []
        for residual, jacobian in zip(e, H, strict=True):
            estimate = torch.outer(residual, residual)
            if self.noise == "ema-2":
                estimate = estimate + jacobian @ self.P @ jacobian.T
            estimates.append(estimate)
        if callable(self.noise):
            self.R = self.noise(e, torch.stack([jacobian @ self.P @ jacobian.T for jacobian in H]))
        elif self.noise != "constant":
            self.R = self.beta * self.R + (1 - self.beta) * torch.stack(estimates).mean(0)
        used = self.R.expand(B, d, d) if own is None else own
        if self.rho:
            used = torch.linalg.inv(torch.linalg.inv(used) + self.rho * torch.eye(d, dtype=used.dtype))
        stacked = H.reshape(B * d, -1)
        S = stacked @ self.P @ stacked.T + torch.block_diag(*used)
        self.condition = max(self.condition, float(torch.linalg.cond(S)))
        K = self.P @ stacked.T @ self.inverse(S)
        self.theta = self.theta + K @ e.reshape(-1)
        self.P = self.P - K @ stacked @ self.P
        if self.blocks is not None:
            self.P = self.P * self.blocks

    def observe(self, observed: str, model: nn.Module, x: Tensor, y: Tensor, basis: Tensor | None = None) -> None:
        """One step on what is observed: values, probabilities, softmax or logits, whose scale is LoKO's."""
        m = model(x).shape[1]
        basis = ones_complement(m) if basis is None else basis
        if observed == "values":
            self.observe_values(model, x, y)
        elif observed == "logits":
            self.observe_logits(model, x, y, scale=2.0 if m == 2 else 1.0)
        else:
            (self.observe_softmax if observed == "softmax" else self.observe_probabilities)(model, x, y, basis)

    def observe_values(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """One step on values y (B, m)."""
        call = outputs_of(model, x)
        self.update(y - call(self.theta), jacrev(call)(self.theta))

    def observe_probabilities(self, model: nn.Module, x: Tensor, target: Tensor, basis: Tensor) -> None:
        """One step on labels (B,), the probabilities seen in the coordinates ``basis`` (m, d)."""

        def h(theta: Tensor) -> Tensor:
            return outputs_of(model, x)(theta).softmax(-1) @ basis

        self.update(one_hot(target, len(basis)) @ basis - h(self.theta), jacrev(h)(self.theta))

    def observe_softmax(self, model: nn.Module, x: Tensor, target: Tensor, basis: Tensor) -> None:
        """One step on labels (B,), the probabilities seen as above, with their own covariance as noise."""

        def h(theta: Tensor) -> Tensor:
            return outputs_of(model, x)(theta).softmax(-1) @ basis

        p = outputs_of(model, x)(self.theta).softmax(-1)
        own = basis.T @ (torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)) @ basis
        self.update(one_hot(target, len(basis)) @ basis - h(self.theta), jacrev(h)(self.theta), own)

    def observe_logits(self, model: nn.Module, x: Tensor, target: Tensor, scale: float) -> None:
        """One step on labels (B,), seen as logits: scale * one-hot, or +-scale for the difference of two."""

        def h(theta: Tensor) -> Tensor:
            z = outputs_of(model, x)(theta)
            return z if z.shape[1] > 2 else z[:, 1:] - z[:, :1]

        m = outputs_of(model, x)(self.theta).shape[1]
        wanted = scale * (one_hot(target, m) if m > 2 else torch.where(target == 1, 1.0, -1.0).double()[:, None])
        self.update(wanted - h(self.theta), jacrev(h)(self.theta))
