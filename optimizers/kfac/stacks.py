"""Layers of one shape, worked on together.

Shapes: ``L`` layers, ``out`` outputs, ``k`` inputs and the bias' column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..distributed import Ranks
from .factors import WIDE, DenseFactor, Factor
from .inverses import INVERSES
from .layers import Layer, Pass
from .settings import Settings
from .wide import WideFactor

Group = dict[str, Any]


@dataclass(eq=False)
class Stack:
    """Layers of one shape in one parameter group.

    Attributes:
        layers: They, by their place among all layers.
        group: Their parameter group, for its learning rate.
        state: Where both factors and the momentum are kept.
        settings: How factors are averaged and inverted.
    """

    layers: dict[int, Layer]
    group: Group
    state: dict[str, Any]
    settings: Settings

    def matrices(self, grads: dict[int, Tensor]) -> Tensor:
        """Derivatives by the layers' matrices, (L, out, k), from those by the parameters' id."""
        return torch.stack([layer.matrix(grads) for layer in self.layers.values()])

    def see(self, passes: dict[int, list[Pass]], errors: dict[int, list[Tensor]], samples: int, ranks: Ranks) -> None:
        """Take a batch into the factors.

        Lambda is the mean of xx' over all positions that are not padded, Gamma the sum of ee' over all positions and
        labels divided by the samples; of all passes through a layer, where there are several.

        Args:
            passes: Of every layer, by its place.
            errors: Of every layer those of each pass and label, (rows, out).
            samples: B of this rank.
            ranks: The processes that learn together.
        """
        X, counts = [], []
        for i, layer in self.layers.items():
            parts = [layer.activations(seen) for seen in passes[i]]
            X.append(_joined([x for x, _ in parts]))
            counts.append(torch.stack([count for _, count in parts]).sum())
        E = [_joined(errors[i]) for i in self.layers]
        for name, rows in (("Lambda", X), ("Gamma", E)):
            if name not in self.state:
                columns, longest = rows[0].shape[1], max(map(len, rows))
                of_all = longest if ranks.world == 1 else sum(ranks.integers(longest, rows[0].device))
                self.state[name] = {"wide": columns >= WIDE and 2 * of_all <= columns}
        self.Lambda.add(X, torch.stack(counts), ranks)
        self.Gamma.add(E, E[0].new_full((len(E),), samples), ranks)

    @property
    def Lambda(self) -> Factor:
        """Of the activations, (L, k, k)."""
        return self._factor("Lambda")

    @property
    def Gamma(self) -> Factor:
        """Of the errors, (L, out, out)."""
        return self._factor("Gamma")

    @property
    def factors(self) -> tuple[Factor, Factor]:
        """Both."""
        return self.Lambda, self.Gamma

    def _factor(self, name: str) -> Factor:
        state, settings = self.state[name], self.settings
        if state["wide"]:
            return WideFactor(state, settings.factor_decay)
        return DenseFactor(state, settings.factor_decay, INVERSES[settings.inverse])

    def precondition(self, G: Tensor, root: Tensor | None) -> Tensor:
        """(Gamma + lam_G I)^-1 G (Lambda + lam_A I)^-1, (L, out, k).

        Args:
            G: The gradient.
            root: sqrt(rho), where it is no longer that at which the factors were inverted.
        """
        lam_A, lam_G = (None if root is None else factor.damping(root) for factor in self.factors)
        return self.Gamma.solve(self.Lambda.solve(G, lam_A).mT, lam_G).mT

    def average(self, step: Tensor, momentum: float, finite: Tensor) -> Tensor:
        """The dampened momentum m <- mu m + (1 - mu) step; what was there before, where the step is not finite."""
        if not momentum:
            return torch.where(finite, step, 0)
        before = self.state["momentum"] if "momentum" in self.state else torch.zeros_like(step)
        self.state["momentum"] = torch.where(finite, before.lerp(step, 1 - momentum), before)
        return torch.where(finite, self.state["momentum"], 0)

    def move(self, step: Tensor) -> None:
        """[W, b] <- [W, b] + step."""
        params = [param for layer in self.layers.values() for param in layer.params]
        steps = [part for layer, own in zip(self.layers.values(), step, strict=True) for part in layer.split(own)]
        steps = [part.to(param.dtype) for part, param in zip(steps, params, strict=True)]
        torch._foreach_add_(params, steps)


def build_stacks(
    layers: Sequence[Layer], seen: Sequence[int], groups: Sequence[Group], states: dict[str, Any], settings: Settings
) -> Iterator[Stack]:
    """Sort layers by parameter group and shape.

    Args:
        layers: All of them.
        seen: Places of those that take part.
        groups: The optimizer's groups.
        states: Where each stack's state is kept, by its number.
        settings: Of the optimizer.

    Raises:
        ValueError: If a layer's weight and bias are in different groups.
    """
    where = {id(param): i for i, group in enumerate(groups) for param in group["params"]}
    sorted_layers: dict[tuple[int, tuple[int, int]], dict[int, Layer]] = {}
    for i in seen:
        own = {where[id(param)] for param in layers[i].params}
        if len(own) > 1:
            raise ValueError(f"{layers[i].name}: weight and bias of a layer must be in one parameter group")
        sorted_layers.setdefault((own.pop(), layers[i].shape), {})[i] = layers[i]
    for n, ((group, _), members) in enumerate(sorted_layers.items()):
        yield Stack(members, groups[group], states.setdefault(str(n), {}), settings)


def describe_factors(Lambdas: Sequence[Factor], Gammas: Sequence[Factor]) -> dict[str, Tensor]:
    """Mean trace of the factors, the largest residual of an inverse, and how many had to fall back."""
    everything = [*Lambdas, *Gammas]
    return {
        "lambda_trace": torch.cat([factor.trace() for factor in Lambdas]).mean(),
        "gamma_trace": torch.cat([factor.trace() for factor in Gammas]).mean(),
        "residual": torch.cat([factor.residual() for factor in everything]).max(),
        "indefinite": torch.stack([factor.indefinite for factor in everything]).sum(),
    }


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
