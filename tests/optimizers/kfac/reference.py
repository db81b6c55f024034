"""NGD, RING and RENG written out plainly for dense layers, a sample at a time, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from filtune.optimizers.likelihoods.base import Likelihood
from torch import Tensor, nn


@dataclass
class Reference:
    """The algorithm on a model whose dense layers see one position a sample.

    Attributes:
        model: The model.
        likelihood: Of its outputs.
        kind: ``ngd``, ``ring`` or ``reng``.
    """

    model: nn.Module
    likelihood: Callable[[Tensor], Likelihood]
    kind: str
    lr: float = 1.0
    rho: float = 1e-2
    phi: float = 1.0
    skip: int = 1
    decay: float = 0.9
    momentum: float = 0.9
    kl_clip: float = 1e-3
    min_relative_damping: float = 0.3
    grad_penalty: float = 0.0
    per_layer: bool = False
    step_count: int = 0
    weights: list[float] = field(default_factory=list)
    history: list[list[tuple[Tensor, Tensor]]] = field(default_factory=list)
    buffers: dict[int, Tensor] = field(default_factory=dict)
    last_loss: float | None = None

    @property
    def layers(self) -> list[nn.Linear]:
        return [module for module in self.model.modules() if isinstance(module, nn.Linear)]

    def observed(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Outputs, and every layer's inputs with a last 1, and outputs."""
        inputs, outputs = [], []

        def hook(_: nn.Module, given: tuple[Tensor], y: Tensor) -> None:
            ones = torch.ones(len(given[0]), 1, dtype=given[0].dtype)
            inputs.append(torch.cat([given[0], ones], 1).detach())
            outputs.append(y)

        handles = [layer.register_forward_hook(hook) for layer in self.layers]
        result = self.model(x)
        for handle in handles:
            handle.remove()
        return result, inputs, outputs

    def moments(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Lambda and Gamma of every layer, of the exact Fisher information: the mean over all labels, weighted."""
        B, pairs = len(x), [(0.0, 0.0) for _ in self.layers]
        for b in range(B):
            out, inputs, ys = self.observed(x[b : b + 1])
            p = self.likelihood(out).mean().detach()[0]
            for label in range(out.shape[1]):
                nll = self.likelihood(out).nll(torch.tensor([label]))
                errors = torch.autograd.grad(nll, ys, retain_graph=True)
                pairs = [
                    (A + inputs[i].mT @ inputs[i] / B / out.shape[1], G + p[label] * errors[i].mT @ errors[i] / B)
                    for i, (A, G) in enumerate(pairs)
                ]
        return pairs

    def gradient(self, x: Tensor, y: Tensor, penalised: bool) -> list[Tensor]:
        params = [p for layer in self.layers for p in (layer.weight, layer.bias)]
        loss = self.likelihood(self.model(x)).nll(y)
        if penalised:
            first = torch.autograd.grad(loss, params, create_graph=True)
            loss = loss + self.grad_penalty / 2 * sum(g.square().sum() for g in first)
        grads = torch.autograd.grad(loss, params)
        return [torch.cat([w, b[:, None]], 1) for w, b in zip(grads[::2], grads[1::2], strict=True)]

    def step(self, x: Tensor, y: Tensor) -> None:
        loss = float(self.likelihood(self.model(x)).nll(y).detach())
        if self.last_loss is not None and loss != self.last_loss:
            self.rho *= self.phi if loss < self.last_loss else 1 / self.phi
        self.last_loss = loss
        refresh = self.step_count % self.skip == 0
        grads = self.gradient(x, y, refresh and self.grad_penalty > 0)
        if refresh:
            self.history.append(self.moments(x))
        ages = [self.decay ** (len(self.history) - 1 - i) for i in range(len(self.history))]
        average = [
            [sum(w * h[i][j] for w, h in zip(ages, self.history, strict=True)) / sum(ages) for j in (0, 1)]
            for i in range(len(self.layers))
        ]
        norms = [[float(torch.linalg.matrix_norm(M, 2)) for M in pair] for pair in average]
        directions = []
        for i, (Lambda, Gamma) in enumerate(average):
            if self.kind == "ring":
                cs = [max(norms[i][j], self.min_relative_damping * max(n[j] for n in norms)) for j in (0, 1)]
            elif self.kind == "reng":
                cs = [1.0, 1.0]
            else:
                ratio = (Lambda.trace() / len(Lambda)) / (Gamma.trace() / len(Gamma))
                cs = [float(ratio.sqrt()), float(1 / ratio.sqrt())]
            A = Lambda + self.rho**0.5 * cs[0] * torch.eye(len(Lambda), dtype=Lambda.dtype)
            E = Gamma + self.rho**0.5 * cs[1] * torch.eye(len(Gamma), dtype=Gamma.dtype)
            directions.append(torch.linalg.inv(E) @ grads[i] @ torch.linalg.inv(A))
        kl = 0.5 * self.lr**2 * sum(float((d * g).sum()) for d, g in zip(directions, grads, strict=True))
        scale = min(1.0, (self.kl_clip / kl) ** 0.5) if self.kl_clip else 1.0
        scale /= len(self.layers) if self.per_layer else 1
        for i, (layer, d) in enumerate(zip(self.layers, directions, strict=True)):
            before = self.buffers.get(i, torch.zeros_like(d))
            self.buffers[i] = self.momentum * before + (1 - self.momentum) * scale * d
            with torch.no_grad():
                layer.weight -= self.lr * self.buffers[i][:, :-1]
                layer.bias -= self.lr * self.buffers[i][:, -1]
        self.step_count += 1
