"""From a closure to what a natural gradient needs: the gradient, the layers' inputs, and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..base import Closure
from ..distributed import Ranks
from ..likelihoods.base import Observation
from .labels import Errors
from .layers import Layer, LayerWatch, Pass
from .unfactored import check_batch_norm


class Gradients(NamedTuple):
    """What was found.

    Attributes:
        observation: The observation of all ranks' samples.
        loss: Their mean negative log-likelihood, ().
        of: Its derivative by every parameter, with that of the penalty.
        samples: B of this rank.
        passes: Passes through each layer that the outputs depend on, by its place; empty but at a refresh.
        errors: Of the same layers the derivatives of each sample's log-likelihood by every pass' output, for one label
            after the other, each (rows, out).
    """

    observation: Observation
    loss: Tensor
    of: list[Tensor]
    samples: int
    passes: dict[int, list[Pass]]
    errors: dict[int, list[Tensor]]


class Observer:
    """Calls closures and differentiates.

    Args:
        name: Of the optimizer, for messages.
        model: The model.
        params: The trained parameters.
    """

    def __init__(self, name: str, model: nn.Module, params: Sequence[Tensor]) -> None:
        self.name, self.model, self.params = name, model, list(params)
        self.watch = LayerWatch(model, params)

    @property
    def layers(self) -> list[Layer]:
        """Layers that have factors."""
        return self.watch.layers

    def observe(self, closure: Closure, refresh: bool, fisher: str, grad_reg: float, ranks: Ranks) -> Gradients:
        """Call the closure once.

        Args:
            closure: The closure.
            refresh: Whether the layers' inputs and errors are wanted, and the penalty.
            fisher: Whose labels make up the errors.
            grad_reg: c of the penalty c/2 |g|^2 on the gradient g of the mean loss.
            ranks: The processes that learn together.
        """
        penalised = refresh and grad_reg > 0
        with ExitStack() as during:
            during.enter_context(torch.enable_grad())
            if refresh:
                check_batch_norm(self.name, self.model)
                during.enter_context(self.watch)
            if penalised:  # the fused kernels have no second derivative
                during.enter_context(sdpa_kernel(SDPBackend.MATH))
            observation = closure()
            loss = observation.nll()
        with torch.autocast(loss.device.type, enabled=False):
            return self._differentiate(observation, loss, refresh, fisher, grad_reg if penalised else 0.0, ranks)

    def _differentiate(
        self, observation: Observation, loss: Tensor, refresh: bool, fisher: str, grad_reg: float, ranks: Ranks
    ) -> Gradients:
        penalised = grad_reg > 0
        joint, sizes = ranks.join(observation)
        passes = self.watch.take() if refresh else {}
        edges = [seen.y for each in passes.values() for seen in each]
        own = ranks.own(sizes) if ranks.world > 1 else slice(None)
        errors = Errors(fisher, observation, joint, own) if refresh else None
        further = errors is not None and not errors.from_ordinary
        again = errors is not None and errors.may_need_more([seen.shape for each in passes.values() for seen in each])

        inputs: list[Any] = [*self.params, *([] if further else edges)]
        grads = torch.autograd.grad(
            loss, inputs, create_graph=penalised, retain_graph=penalised or again, allow_unused=True
        )
        graph, ordinary = grads[: len(self.params)], grads[len(self.params) :]
        g = [torch.zeros_like(p) if d is None else d.detach() for p, d in zip(self.params, graph, strict=True)]
        if penalised:
            g = self._penalised(g, graph, grad_reg, again, ranks, sizes)
        else:
            ranks.average(g, sizes)
        labels = [*errors.each(ordinary, edges)] if errors is not None and edges else []
        kept, by_layer = self._by_layer(passes, labels)
        mean = loss if ranks.world == 1 else joint.nll()
        return Gradients(joint, mean.detach(), g, len(observation.outputs), kept, by_layer)

    def _penalised(
        self, g: list[Tensor], graph: Sequence[Tensor | None], c: float, keep: bool, ranks: Ranks, sizes: list[int]
    ) -> list[Tensor]:
        """g + c H g, the derivative of the loss with c/2 |g|^2, g and H those of all ranks' samples (after eq. 9).

        Raises:
            ValueError: If a part of the model has no second derivative.
        """
        g = [own.clone() for own in g]
        ranks.average(g, sizes)
        pairs = [(d, c * own) for d, own in zip(graph, g, strict=True) if d is not None and d.requires_grad]
        try:
            products = torch.autograd.grad(
                [d for d, _ in pairs], self.params, [v for _, v in pairs], retain_graph=keep, allow_unused=True
            )
        except RuntimeError as error:
            raise ValueError(
                f"{self.name}: a part of the model has no second derivative ({str(error).splitlines()[0]}); load it "
                "with eager attention, or set grad_reg to 0"
            ) from error
        Hg = [torch.zeros_like(p) if d is None else d for p, d in zip(self.params, products, strict=True)]
        ranks.average(Hg, sizes)
        return [own + product for own, product in zip(g, Hg, strict=True)]

    def _by_layer(
        self, passes: dict[int, list[Pass]], labels: list[Sequence[Tensor | None]]
    ) -> tuple[dict[int, list[Pass]], dict[int, list[Tensor]]]:
        """Passes on which the outputs depend, and their errors: DoRA's second pass, without a gradient, is none."""
        kept: dict[int, list[Pass]] = {}
        errors: dict[int, list[Tensor]] = {}
        place = 0
        for i, each in passes.items():
            mine = [g[place : place + len(each)] for g in labels]
            place += len(each)
            live = [seen for seen, g in zip(each, mine[0], strict=True) if g is not None]
            if live:
                kept[i] = live
                errors[i] = [self.layers[i].errors(g) for label in mine for g in label if g is not None]
        return kept, errors
