"""The natural gradient with Kronecker factors that NGD, RING and RENG share; they differ in damping and penalty."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..base import Closure, OnlineOptimizer, tensors
from ..distributed import Ranks
from ..likelihoods.base import Observation
from .damping import by_loss, by_ratio, predicted_change
from .factors import Factor
from .inverses import GUARD
from .kronecker import clip_scale
from .observing import Gradients, Observer
from .settings import Settings
from .stacks import Stack, build_stacks, describe_factors
from .unfactored import AdamWRule, check_unfactored

NATURAL = "natural"
"""Key of the state. A string, because torch casts state keyed by a parameter to the parameter's type."""

Scales = tuple[list[Tensor], list[Tensor]]


class NaturalOptimizer(OnlineOptimizer):
    r"""Natural gradient descent on matrices, layer by layer.

    .. math::
        W &\leftarrow W - \alpha\, m, \quad m \leftarrow \mu m + (1 - \mu)\, \nu D \\
        D &= (\Gamma + l_\Gamma I)^{-1}\, G\, (\Lambda + l_\Lambda I)^{-1} \quad (8, 10)

    G is the gradient of W, nu keeps the predicted KL divergence of a step within bounds, and lam = sqrt(rho) c, where c
    is the subclass' own. Lambda, Gamma and the inverses are worked out anew every skip-th step, the first included.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, alpha.
        settings: The rest.

    Raises:
        ValueError: If an argument is out of range.
    """

    abstract: ClassVar[bool] = True

    def __init__(self, params: torch.optim.optimizer.ParamsT, lr: float, settings: Settings) -> None:
        self.name, self.settings = type(self).__name__, settings
        settings.check(self.name)
        if not 0 <= lr < float("inf"):
            raise ValueError(f"{self.name}: lr must be zero or positive, and finite; got {lr}")
        super().__init__(params, {"lr": lr})
        self._params = list(self.trained())
        zero = torch.zeros((), dtype=torch.float64, device=self._params[0].device)
        start = {"steps": 0, "rho": zero + settings.rho, "loss": zero * float("nan")}
        counters = {name: zero.long() for name in ("nonfinite", "guarded")}
        self.state[NATURAL] = {**start, **counters, "seen": [], "stacks": {}, "others": {}}  # type: ignore[index]
        self._observer: Observer | None = None
        self._stacks: list[Stack] = []
        self.stats = {}

    @abstractmethod
    def scales(self, Lambdas: list[Factor], Gammas: list[Factor]) -> Scales:
        """c of every Lambda and every Gamma, (L,), from the factors of all stacks."""

    @property
    def natural(self) -> dict[str, Any]:
        """The state: rho, the factors with their inverses, momentum and counters."""
        return self.state[NATURAL]  # type: ignore[index]

    def attach(self, model: nn.Module) -> Self:
        """Watch the model's layers; without this no step can be taken.

        Raises:
            ValueError: If there are parameters without factors, and they are refused.
        """
        self._model, self._observer, self._stacks = model, Observer(self.name, model, self._params), []
        factored = {id(param) for layer in self._observer.layers for param in layer.params}
        self._check_unfactored([param for param in self._params if id(param) not in factored])
        return self

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group before the first step is taken.

        Raises:
            ValueError: If the state exists already.
        """
        if NATURAL in self.state:
            raise ValueError(f"{self.name}: parameters cannot join once the optimizer has been created")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Observe, refresh the factors where it is time, move, and return the observation made before.

        Raises:
            ValueError: If no model is attached, or it cannot be worked with.
        """
        if self._observer is None:
            raise ValueError(f"{self.name}: it must see the model's layers; call attach(model) before the first step")
        state, settings = self.natural, self.settings
        refresh = state["steps"] % settings.skip == 0
        found = self._observer.observe(closure, refresh, settings.fisher, settings.grad_reg, Ranks.current())
        with torch.autocast(found.loss.device.type, enabled=False):
            if settings.adapt == "loss":
                loss = found.loss.double()
                state["rho"], state["loss"] = by_loss(state["rho"], loss, state["loss"], settings.phi), loss
            if not self._stacks:
                self._sort(found)
            if refresh:
                self._refresh(found)
            grads = {id(param): grad for param, grad in zip(self._params, found.of, strict=True)}
            G = [stack.matrices(grads) for stack in self._stacks]
            root = None if refresh or settings.adapt == "none" else self._root()
            D = [stack.precondition(own, root) for stack, own in zip(self._stacks, G, strict=True)]
            moved = self._move(G, D, torch.nn.utils.get_total_norm(found.of), grads)
        if settings.adapt == "ratio" and refresh:
            predicted = predicted_change([stack.factors for stack in self._stacks], moved, G)
            torch.clear_autocast_cache()  # of the weights before the step
            after = Ranks.current().join(closure())[0].nll()
            state["rho"] = by_ratio(state["rho"], after - found.loss, predicted, settings.phi)
        state["steps"] += 1
        return found.observation

    def _refresh(self, found: Gradients) -> None:
        """The factors of this batch into the averages, and their inverses at the present damping."""
        assert self._observer is not None
        for i in self.natural["seen"]:
            if i not in found.errors:
                name = self._observer.layers[i].name
                raise ValueError(f"{self.name}: {name} took part in the first step, and does not now")
        for stack in self._stacks:
            stack.see(found.passes, found.errors, found.samples, Ranks.current())
        root = self.natural["prepared"] = self.natural["rho"].sqrt()
        Lambdas, Gammas = ([stack.factors[i] for stack in self._stacks] for i in (0, 1))
        for factor, c in zip([*Lambdas, *Gammas], [c for cs in self.scales(Lambdas, Gammas) for c in cs], strict=True):
            factor.prepare(root, c)
        self.natural["figures"] = describe_factors(Lambdas, Gammas)

    def _root(self) -> Tensor:
        """sqrt(rho) between two refreshes."""
        state, root = self.natural, self.natural["rho"].sqrt()
        state["guarded"] = state["guarded"] + ((root / state["prepared"] - 1).abs() > GUARD)
        return root

    def _move(self, G: list[Tensor], D: list[Tensor], norm: Tensor, grads: dict[int, Tensor]) -> list[Tensor]:
        """Clip, average and take the steps, and return them; where anything is not finite, take none."""
        state, settings = self.natural, self.settings
        rates = [float(stack.group["lr"]) for stack in self._stacks]
        dots = [lr**2 * torch.dot(d.flatten(), own.flatten()) for lr, d, own in zip(rates, D, G, strict=True)]
        kl = 0.5 * torch.stack(dots).sum()
        finite = (kl + norm).isfinite()
        scale = clip_scale(kl, settings.kl_clip) if settings.kl_clip else torch.ones_like(kl)
        if settings.per_layer:
            scale = scale / len(state["seen"])
        moved = []
        for stack, d, lr in zip(self._stacks, D, rates, strict=True):
            moved.append(-lr * stack.average(scale * d, settings.momentum, finite))
            stack.move(moved[-1])
        if self._rule is not None:
            self._rule.step(state["others"], [grads[id(param)] for param in self._others], finite)
        state["nonfinite"] = state["nonfinite"] + ~finite
        figures = {"grad_norm": norm, "update_norm": torch.nn.utils.get_total_norm(moved), "kl": scale**2 * kl}
        self.stats = {**figures, "kl_scale": scale, "damping": state["rho"], **state["figures"]}
        self.stats |= {"guarded": state["guarded"], "nonfinite_steps": state["nonfinite"]}
        return moved

    def _sort(self, found: Gradients) -> None:
        """Sort the layers that take part, which is found out at the first step, into stacks."""
        assert self._observer is not None
        state, layers = self.natural, self._observer.layers
        if not state["seen"]:
            state["seen"] = sorted(found.errors)
            if not state["seen"]:
                raise ValueError(
                    f"{self.name}: the outputs depend on no layer that has Kronecker factors (dense, or convolutional "
                    "in one group, with a trained weight, not under reentrant checkpointing); take another optimizer"
                )
            self._check_unfactored([p for i in range(len(layers)) if i not in found.errors for p in layers[i].params])
        self._stacks = list(build_stacks(layers, state["seen"], self.param_groups, state["stacks"], self.settings))
        own = {id(param) for i in state["seen"] for param in layers[i].params}
        self._others = [param for param in self._params if id(param) not in own]
        by_adamw = self._others and self.settings.unfactored == "adamw"
        self._rule = AdamWRule(self._others, self.settings.unfactored_lr) if by_adamw else None

    def _check_unfactored(self, params: list[Tensor]) -> None:
        check_unfactored(self.name, self._model, params, self.settings.unfactored, self.settings.unfactored_lr)

    def replicated(self) -> Iterator[Tensor]:
        """The parameters, factors, inverses and momentum."""
        return chain(self.trained(), tensors(self.natural))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore factors, inverses, momentum, damping and the place in the skip period.

        Raises:
            ValueError: If it was saved by another optimizer.
        """
        if NATURAL not in state_dict["state"]:
            raise ValueError(f"{self.name}: the checkpoint holds no Kronecker factors; it is another optimizer's")
        super().load_state_dict(copy.deepcopy(state_dict))
        self.stats, self._stacks = {}, []
