"""Quantities that a natural gradient takes of a closure: the gradient, the layers' inputs and output gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..base import Closure, observe
from ..distributed import Ranks
from ..layer_hooks import LayerHooks, LayerIO
from ..likelihoods.base import Observation
from .groups import KroneckerLayer
from .output_gradients import OutputGradients
from .unsupported import batch_norms, check_batch_norm


class Gradients(NamedTuple):
    """Gradients of one batch.

    Attributes:
        observation: The observation of all ranks' samples.
        loss: Their mean negative log-likelihood, ().
        grads: Its derivative by every parameter, with that of the penalty.
        samples: B of this rank.
        calls: Calls of each layer that the outputs depend on, by the layer's index; empty except at a refresh.
        output_gradients: Of the same layers the derivatives of each sample's log-likelihood by the output of every
            call, for one label after the other, each (rows, out).
    """

    observation: Observation
    loss: Tensor
    grads: list[Tensor]
    samples: int
    calls: dict[int, list[LayerIO]]
    output_gradients: dict[int, list[Tensor]]


class CurvatureCollector:
    """Collector of what Kronecker factors are made of: it calls closures and differentiates.

    Args:
        name: Name of the optimizer, for messages.
        model: The model.
        params: The trained parameters.
        fisher_type: For which labels the outputs are differentiated.
        grad_penalty: c of the penalty c/2 |g|^2 on the gradient g of the mean loss.

    Attributes:
        layers: The layers with Kronecker factors: those supported by the hooks whose weight is trained.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        params: Sequence[Tensor],
        fisher_type: type[OutputGradients],
        grad_penalty: float,
    ) -> None:
        self.name, self.model, self.params = name, model, list(params)
        self.fisher_type, self.grad_penalty = fisher_type, grad_penalty
        self.hooks = LayerHooks(model, params, masks=True)
        self._norms = batch_norms(model)
        self._indices = [i for i, layer in enumerate(self.hooks.layers) if "weight" in layer.params]
        self.layers = [KroneckerLayer(self.hooks.layers[i]) for i in self._indices]

    def collect(self, closure: Closure, refresh: bool, ranks: Ranks) -> Gradients:
        """Call the closure once and return its gradients.

        Args:
            closure: The closure.
            refresh: Whether to collect the layers' inputs and output gradients, and to apply the penalty.
            ranks: The processes that train together.

        Raises:
            ValueError: If the model mixes samples or, with a penalty, has no second derivative.
        """
        penalised = refresh and self.grad_penalty > 0
        with ExitStack() as during:
            during.enter_context(torch.enable_grad())
            if refresh:
                check_batch_norm(self.name, self._norms)
                during.enter_context(self.hooks)
            if penalised:  # the fused kernels have no second derivative
                during.enter_context(sdpa_kernel(SDPBackend.MATH))
            observation = observe(closure)
            loss = observation.nll()
        with torch.autocast(loss.device.type, enabled=False):
            return self._differentiate(observation, loss, refresh, penalised, ranks)

    def _differentiate(
        self, observation: Observation, loss: Tensor, refresh: bool, penalised: bool, ranks: Ranks
    ) -> Gradients:
        joint, sizes = ranks.join(observation)
        calls = self._take() if refresh else {}
        flat = [call for each in calls.values() for call in each]
        edges = [call.output for call in flat]
        own = ranks.own(sizes) if ranks.world > 1 else slice(None)
        fisher = self.fisher_type.of(observation, joint, own) if refresh else None
        further = fisher is not None and not fisher.from_loss
        again = fisher is not None and fisher.may_need_more([call.shape for call in flat])

        inputs: list[Any] = [*self.params, *([] if further else edges)]
        found = torch.autograd.grad(
            loss, inputs, create_graph=penalised, retain_graph=penalised or again, allow_unused=True
        )
        graph, loss_gradients = found[: len(self.params)], found[len(self.params) :]
        g = [torch.zeros_like(p) if d is None else d.detach() for p, d in zip(self.params, graph, strict=True)]
        if penalised:
            g = self._penalised(g, graph, again, ranks, sizes)
        else:
            ranks.average(g, sizes)
        labels = [*fisher.each(loss_gradients, edges)] if fisher is not None and edges else []
        live, by_layer = self._by_layer(calls, labels)
        mean = loss if ranks.world == 1 else joint.nll()
        return Gradients(joint, mean.detach(), g, len(observation.outputs), live, by_layer)

    def _take(self) -> dict[int, list[LayerIO]]:
        """Return the recorded calls of the layers with Kronecker factors, by their index in ``layers``."""
        recorded = self.hooks.take()
        return {n: recorded[i] for n, i in enumerate(self._indices) if i in recorded}

    def _penalised(
        self, g: list[Tensor], graph: Sequence[Tensor | None], keep: bool, ranks: Ranks, sizes: list[int]
    ) -> list[Tensor]:
        """Return g + c H g, the derivative of the loss with c/2 |g|^2, g and H of all ranks' samples (after eq. 9).

        Raises:
            ValueError: If a part of the model has no second derivative.
        """
        g = [own.clone() for own in g]
        ranks.average(g, sizes)
        pairs = [(d, self.grad_penalty * own) for d, own in zip(graph, g, strict=True) if d is not None]
        pairs = [(d, v) for d, v in pairs if d.requires_grad]
        try:
            products = torch.autograd.grad(
                [d for d, _ in pairs], self.params, [v for _, v in pairs], retain_graph=keep, allow_unused=True
            )
        except RuntimeError as error:
            raise ValueError(
                f"{self.name}: a part of the model has no second derivative ({str(error).splitlines()[0]}); load it "
                "with eager attention and do not compile it, or set grad_penalty to 0"
            ) from error
        Hg = [torch.zeros_like(p) if d is None else d for p, d in zip(self.params, products, strict=True)]
        ranks.average(Hg, sizes)
        return [own + product for own, product in zip(g, Hg, strict=True)]

    def _by_layer(
        self, calls: dict[int, list[LayerIO]], labels: list[Sequence[Tensor | None]]
    ) -> tuple[dict[int, list[LayerIO]], dict[int, list[Tensor]]]:
        """Return the calls that the outputs depend on, and their output gradients, by layer."""
        live: dict[int, list[LayerIO]] = {}
        gradients: dict[int, list[Tensor]] = {}
        start = 0
        for i, each in calls.items():
            mine = [g[start : start + len(each)] for g in labels]
            start += len(each)
            used = [call for call, g in zip(each, mine[0], strict=True) if g is not None]
            if used:
                live[i] = used
                gradients[i] = [self.layers[i].output_gradients(g) for label in mine for g in label if g is not None]
        return live, gradients
