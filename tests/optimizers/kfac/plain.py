"""Kronecker factors a sample, a label and a pass at a time, and the optimizers' own, by the names of the layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from filtune.optimizers import RING, Categorical
from filtune.optimizers.kfac.factors import Factor
from filtune.optimizers.kfac.shared import SHARED
from filtune.optimizers.likelihoods.base import Likelihood, Observation
from torch import Tensor, nn

Factors = dict[str, tuple[Tensor, Tensor]]

Forward = Callable[[int], Tensor]
"""Outputs of one sample, (1, m)."""


def take_factors(
    model: nn.Module, closure: Callable[[], Observation], fisher_type: str = "exact", **options: Any
) -> Factors:
    """Return Lambda and Gamma of one batch, by an optimizer with learning rate 0."""
    params = [p for p in model.parameters() if p.requires_grad]
    options = {"factor_decay": 0.0, "unsupported_params": "freeze"} | options
    optimizer = RING(params, lr=0.0, fisher_type=fisher_type, **options).attach(model)
    optimizer.step(closure)
    return read_factors(optimizer)


def read_factors(optimizer: RING) -> Factors:
    """Return Lambda and Gamma of every layer after the last refresh."""
    found = {}
    for group in optimizer._groups:
        for n, layer in enumerate(group.layers.values()):
            found[layer.name] = tuple(as_matrices(factor, len(group.layers))[n] for factor in group.factors)
    return found


def as_matrices(factor: Factor, layers: int) -> Tensor:
    """Return M of every layer, (L, k, k), however it is held."""
    if "M" in factor.state:
        return factor.state["M"][factor.state.get(SHARED, range(layers))]
    like = factor.state["probe"]
    return factor.times(torch.eye(factor.columns, dtype=like.dtype, device=like.device).repeat(layers, 1, 1))


def patches(module: nn.Module, x: Tensor) -> Tensor:
    """What the layer's matrix is applied to, (positions, k); of a convolution by one that copies its k inputs."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert isinstance(module, nn.Conv2d)
    k = module.weight[0].numel()
    copies = torch.eye(k, dtype=x.dtype).view(k, *module.weight.shape[1:])
    y = nn.functional.conv2d(x, copies, None, module.stride, module.padding, module.dilation)
    return y.movedim(1, -1).reshape(-1, k)


def plain_factors(
    model: nn.Module, forward: Forward, weights: Tensor | None, B: int, likelihood: type[Likelihood] = Categorical
) -> Factors:
    """Lambda, the mean of xx' over positions, and Gamma, that of the sum of ee' over the positions of a sample.

    Args:
        model: The model; layers whose weight is trained are looked at.
        forward: Of one sample.
        weights: Of every label, (B, m); None for the probabilities.
        B: Number of samples.
        likelihood: Whose log-likelihood has the derivatives e.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.requires_grad
    }
    inputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    Gammas: dict[str, Tensor] = {}
    for b in range(B):
        seen: list[tuple[str, Tensor, Tensor]] = []

        def hook(name: str, given: tuple[Tensor, ...], y: Tensor, seen: list = seen) -> Tensor:
            seen.append((name, given[0].detach().clone(), y))
            return y.clone()  # what is done to it in place does not touch y

        handles = [
            module.register_forward_hook(lambda _, given, y, name=name: hook(name, given, y))
            for name, module in layers.items()
        ]
        out = forward(b)
        for handle in handles:
            handle.remove()
        seen = [entry for entry in seen if entry[2].requires_grad]
        p = likelihood(out).mean()[0] if weights is None else weights[b]
        for label in range(len(p)):
            nll = likelihood(out).nll(torch.tensor([label]))
            errors = torch.autograd.grad(nll, [y for *_, y in seen], retain_graph=True, allow_unused=True)
            for (name, x, _), e in zip(seen, errors, strict=True):
                if e is None:
                    continue
                if isinstance(layers[name], nn.Conv2d):
                    e = e.movedim(1, -1)
                e = e.reshape(-1, e.shape[-1])
                Gammas[name] = Gammas.get(name, 0) + p[label] * e.mT @ e / B
                if label == 0:
                    rows = patches(layers[name], x)
                    if layers[name].bias is not None and layers[name].bias.requires_grad:
                        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
                    inputs[name].append(rows)
    joined = {name: torch.cat(inputs[name]) for name in Gammas}
    return {name: (X.mT @ X / len(X), Gammas[name]) for name, X in joined.items()}


def apart(found: Factors, expected: Factors) -> float:
    """The largest difference in any factor, relative to its largest entry.

    A factor that is but rounding, as Gamma of lora_A while lora_B is zero, is measured against the largest of its kind.
    """
    assert found.keys() == expected.keys()
    worst = 0.0
    for i in (0, 1):
        largest = max(float(pair[i].abs().max()) for pair in expected.values())
        for name, pair in expected.items():
            assert found[name][i].shape == pair[i].shape, name
            difference = float((found[name][i] - pair[i]).abs().max())
            worst = max(worst, difference / max(float(pair[i].abs().max()), 1e-6 * largest))
    return worst
