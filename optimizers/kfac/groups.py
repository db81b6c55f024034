"""Layers with Kronecker factors, and groups of layers of one shape that are processed together.

A layer with weight and trained bias has the matrix [W, b], and inputs with a last coordinate 1.

Shapes: ``L`` layers, ``B`` batch, ``T`` positions, ``rows`` = B*T, ``out`` outputs, ``k`` inputs and the bias' column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import Ranks
from ..layer_hooks import LayerIO, WatchedLayer
from .factors import DenseFactor, Factor, LowRankFactor, prefers_low_rank
from .inverses import InverseMethod
from .shared import SHARED, SharedFactor, same_inputs, separate

ParamGroup = dict[str, Any]


@dataclass(eq=False)
class KroneckerLayer:
    """A layer whose weight is trained, as the matrix [W, b].

    Attributes:
        watched: The layer; its weight is among its ``params``, its bias where it is trained.
    """

    watched: WatchedLayer

    @property
    def name(self) -> str:
        """Name of the layer in the model."""
        return self.watched.name

    @property
    def weight(self) -> Tensor:
        """The weight W."""
        return self.watched.params["weight"]

    @property
    def has_bias(self) -> bool:
        """True if the bias is trained."""
        return "bias" in self.watched.params

    @property
    def params(self) -> list[Tensor]:
        """The weight, and the bias where it is trained."""
        return list(self.watched.params.values())

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of [W, b], (out, k)."""
        return len(self.weight), self.weight[0].numel() + self.has_bias

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the algebra, at least float32."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def activations(self, call: LayerIO) -> tuple[Tensor, Tensor]:
        """Return x_t of all positions, (rows, k), zero where padded, and the number that are not padded, ()."""
        x = call.unfolded_input(self.dtype).flatten(0, 1)
        if self.has_bias:
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        if call.mask is None:
            return x, x.new_full((), len(x))
        mask = call.mask.to(x.dtype)
        return x * mask.reshape(-1, 1), mask.sum()

    def output_gradients(self, g: Tensor) -> Tensor:
        """Return derivatives by y_t of all positions, (rows, out), from those by the output, shaped like it."""
        if isinstance(self.watched.module, nn.Conv2d):
            g = g.flatten(2).mT
        return g.reshape(-1, g.shape[-1]).to(self.dtype)

    def matrix(self, grads: dict[int, Tensor]) -> Tensor:
        """Return the derivative by [W, b], (out, k), from those by the parameters' id."""
        columns = [grads[id(param)].reshape(len(self.weight), -1) for param in self.params]
        return (columns[0] if len(columns) == 1 else torch.cat(columns, 1)).to(self.dtype)

    def split(self, step: Tensor) -> list[Tensor]:
        """Return a change of [W, b], (out, k), as one of each parameter."""
        if not self.has_bias:
            return [step.view_as(self.weight)]
        return [step[:, :-1].reshape(self.weight.shape), step[:, -1]]


@dataclass(eq=False)
class LayerGroup:
    """Layers of one shape in one parameter group.

    Attributes:
        layers: The layers, by their index among all layers of the model.
        param_group: Their parameter group, for its learning rate.
        state: Holds both factors and the momentum.
        decay: Decay of the factors' running averages.
        inverse: Method by which dense factors are inverted.
        shares_inputs: Whether layers with the same input have one ``a_factor``.
    """

    layers: dict[int, KroneckerLayer]
    param_group: ParamGroup
    state: dict[str, Any]
    decay: float
    inverse: InverseMethod
    shares_inputs: bool

    def matrices(self, grads: dict[int, Tensor]) -> Tensor:
        """Return derivatives by the layers' matrices, (L, out, k), from those by the parameters' id."""
        return torch.stack([layer.matrix(grads) for layer in self.layers.values()])

    def update(
        self, calls: dict[int, list[LayerIO]], output_gradients: dict[int, list[Tensor]], samples: int, ranks: Ranks
    ) -> None:
        """Add a batch to the factors.

        Lambda is the mean of xx' over all positions that are not padded, Gamma the sum of ee' over all positions and
        labels divided by the samples; both over all calls of a layer, where there are several.

        Args:
            calls: Calls of every layer, by its index.
            output_gradients: Of every layer those of each call and label, (rows, out).
            samples: B of this rank.
            ranks: The processes that train together.
        """
        places = self._places([calls[i] for i in self.layers])
        X, counts = list[Tensor](), list[Tensor]()
        for n, (i, layer) in enumerate(self.layers.items()):
            if (first := places.index(places[n])) < n:
                X.append(X[first])
                counts.append(counts[first])
                continue
            parts = [layer.activations(call) for call in calls[i]]
            X.append(_joined([x for x, _ in parts]))
            counts.append(torch.stack([count for _, count in parts]).sum())
        E = [_joined(output_gradients[i]) for i in self.layers]
        for name, rows in (("a_factor", X), ("g_factor", E)):
            if name not in self.state:
                columns, longest = rows[0].shape[1], max(map(len, rows))
                of_all = longest if ranks.world == 1 else sum(ranks.integers(longest, rows[0].device))
                self.state[name] = {"low_rank": prefers_low_rank(columns, of_all, self.decay, self.inverse)}
                if name == "a_factor" and max(places) + 1 < len(places):
                    self.state[name][SHARED] = places
        self.a_factor.add(X, torch.stack(counts), ranks)
        self.g_factor.add(E, E[0].new_full((len(E),), samples), ranks)

    def _places(self, calls: Sequence[Sequence[LayerIO]]) -> list[int]:
        """Return for every layer the place of its input among the different ones, as at the first refresh.

        If layers with one factor no longer have the same input, each goes on with a factor of its own.
        """
        state, own = self.state.get("a_factor"), list(range(len(calls)))
        if not self.shares_inputs or (state is not None and SHARED not in state):
            return own
        places = same_inputs(calls)
        if state is not None and places != state[SHARED]:
            separate(state)
            return own
        return places

    @property
    def a_factor(self) -> Factor:
        """Lambda, of the activations, (L, k, k)."""
        return self._factor("a_factor")

    @property
    def g_factor(self) -> Factor:
        """Gamma, of the output gradients, (L, out, out)."""
        return self._factor("g_factor")

    @property
    def factors(self) -> tuple[Factor, Factor]:
        """``a_factor`` and ``g_factor``."""
        return self.a_factor, self.g_factor

    def _factor(self, name: str) -> Factor:
        state = self.state[name]
        factor = LowRankFactor(state, self.decay) if state["low_rank"] else DenseFactor(state, self.decay, self.inverse)
        return SharedFactor(factor, state[SHARED]) if SHARED in state else factor

    def precondition(self, G: Tensor, root: Tensor | None) -> Tensor:
        """Return (Gamma + lam_G I)^-1 G (Lambda + lam_A I)^-1, (L, out, k).

        Args:
            G: The gradient.
            root: sqrt(rho), where it is no longer that at which the factors were inverted.
        """
        lam_A, lam_G = (None if root is None else factor.damping(root) for factor in self.factors)
        return self.g_factor.solve(self.a_factor.solve(G, lam_A).mT, lam_G).mT

    def average(self, step: Tensor, momentum: float, finite: Tensor) -> Tensor:
        """Return the dampened momentum m <- mu m + (1 - mu) step; a step that is not finite leaves m as it is."""
        if not momentum:
            return torch.where(finite, step, 0)
        before = self.state["momentum"] if "momentum" in self.state else torch.zeros_like(step)
        self.state["momentum"] = torch.where(finite, before.lerp(step, 1 - momentum), before)
        return torch.where(finite, self.state["momentum"], 0)

    def move(self, step: Tensor) -> None:
        """Add a step to the parameters: [W, b] <- [W, b] + step."""
        params = [param for layer in self.layers.values() for param in layer.params]
        steps = [part for layer, own in zip(self.layers.values(), step, strict=True) for part in layer.split(own)]
        steps = [part.to(param.dtype) for part, param in zip(steps, params, strict=True)]
        torch._foreach_add_(params, steps)


def group_layers(
    layers: Sequence[KroneckerLayer],
    active: Sequence[int],
    param_groups: Sequence[ParamGroup],
    states: dict[str, Any],
    decay: float,
    inverse: InverseMethod,
    shares_inputs: bool,
) -> Iterator[LayerGroup]:
    """Group layers by parameter group and shape.

    Args:
        layers: All layers.
        active: Indices of those that take part.
        param_groups: The optimizer's groups.
        states: Holds each group's state, by its number.
        decay: Decay of the factors' running averages.
        inverse: Method by which dense factors are inverted.
        shares_inputs: Whether layers with the same input have one ``a_factor``.

    Raises:
        ValueError: If a layer's weight and bias are in different parameter groups.
    """
    where = {id(param): i for i, group in enumerate(param_groups) for param in group["params"]}
    by_shape: dict[tuple[int, tuple[int, int]], dict[int, KroneckerLayer]] = {}
    for i in active:
        own = {where[id(param)] for param in layers[i].params}
        if len(own) > 1:
            raise ValueError(f"{layers[i].name}: weight and bias of a layer must be in one parameter group")
        by_shape.setdefault((own.pop(), layers[i].shape), {})[i] = layers[i]
    for n, ((group, _), members) in enumerate(by_shape.items()):
        yield LayerGroup(members, param_groups[group], states.setdefault(str(n), {}), decay, inverse, shares_inputs)


def describe_factors(a_factors: Sequence[Factor], g_factors: Sequence[Factor]) -> dict[str, Tensor]:
    """Return the mean traces of the factors, the largest residual of an inverse, and the number of failed inverses."""
    everything = [*a_factors, *g_factors]
    return {
        "a_factor_trace": torch.cat([factor.trace() for factor in a_factors]).mean(),
        "g_factor_trace": torch.cat([factor.trace() for factor in g_factors]).mean(),
        "residual": torch.cat([factor.residual() for factor in everything]).max(),
        "inverse_failures": torch.stack([factor.inverse_failures for factor in everything]).sum(),
    }


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
