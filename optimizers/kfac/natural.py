"""The natural gradient with Kronecker factors that NGD, RING and RENG share; they differ in damping and penalty."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..base import Closure, OnlineOptimizer, tensors, to_device
from ..distributed import Ranks
from ..likelihoods.base import Observation
from ..parts import Choice, Part, choose, default_arguments, distribute, part_options
from ..ranges import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, Range, check_ranges
from .curvature import CurvatureCollector, Gradients
from .damping import DampingSchedule, clip_scale, least_trace, predicted_change, reachable_scale
from .factors import Factor
from .groups import LayerGroup, describe_factors, group_layers
from .inverses import MAX_DAMPING_CHANGE, InverseMethod
from .output_gradients import OutputGradients
from .unsupported import UnsupportedParams

NATURAL = "natural"
"""Key of the state. A string, because torch casts state keyed by a parameter to the parameter's type."""

OLD_STATE_KEYS = {
    "nonfinite": "nonfinite_steps",
    "guarded": "damping_clamped",
    "indefinite": "inverse_failures",
    "seen": "active_layers",
    "stacks": "groups",
    "others": "unsupported",
    "Lambda": "a_factor",
    "Gamma": "g_factor",
    "lambda_trace": "a_factor_trace",
    "gamma_trace": "g_factor_trace",
    "wide": "low_rank",
}
"""Keys of the state in checkpoints of earlier releases, and what they are called now."""

RANGES = {
    **dict.fromkeys(("lr", "grad_penalty"), NOT_NEGATIVE),
    **dict.fromkeys(("factor_decay", "momentum"), BELOW_ONE),
    "skip": COUNT,
    "kl_clip": Range(NOT_NEGATIVE.holds, f"{POSITIVE.requirement}, or 0 for none"),
}
"""Ranges of the options that every natural gradient has; parts check their own."""

Scales = tuple[list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Settings:
    """Options of a natural gradient beside parameters and learning rate; see :class:`RING` for their meaning.

    ``per_layer`` divides the learning rate by the number of layers.
    """

    rho: float
    phi: float
    damping_schedule: str
    skip: int
    inverse_method: str
    fisher_type: str
    factor_decay: float
    momentum: float
    kl_clip: float
    unsupported_params: str
    fallback_lr: float
    grad_penalty: float = 0.0
    per_layer: bool = False

    def as_in_paper(self) -> Settings:
        """Return the paper's algorithm: sampled labels, no averages, momentum or KL bound, alpha / L."""
        return replace(
            self,
            fisher_type="mc",
            inverse_method="newton-paper",
            factor_decay=0.0,
            momentum=0.0,
            kl_clip=0.0,
            per_layer=True,
        )


class NaturalOptimizer(OnlineOptimizer):
    r"""Natural gradient descent on matrices, layer by layer.

    .. math::
        W &\leftarrow W - \alpha\, m, \quad m \leftarrow \mu m + (1 - \mu)\, \nu D \\
        D &= (\Gamma + l_\Gamma I)^{-1}\, G\, (\Lambda + l_\Lambda I)^{-1} \quad (8, 10)

    G is the gradient of W, nu bounds the predicted KL divergence of a step, and l = sqrt(rho) c with a scale c of the
    subclass (:meth:`scales`). Equation numbers are those of GRNG. Lambda (``a_factor``), Gamma (``g_factor``) and the
    inverses are computed at every skip-th step, the first included.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, alpha.
        settings: The other options.
        paper_exact: Use the options of the paper's algorithm instead.

    Raises:
        ValueError: If an argument is out of range, or has no effect beside the others.
    """

    abstract: ClassVar[bool] = True
    shares_inputs: ClassVar[bool] = True
    """Whether the damping of an ``a_factor`` follows from it alone, so that layers with one input have one inverse."""
    transient = frozenset({"_collector", "_groups", "_params", "unsupported", "stats"})

    def __init__(
        self, params: torch.optim.optimizer.ParamsT, lr: float, settings: Settings, paper_exact: bool = False
    ) -> None:
        self.name = type(self).__name__
        check_ranges(self.name, {"lr": lr, **vars(settings)}, RANGES)
        self.options = settings.as_in_paper() if paper_exact else settings
        self._check_used(settings)
        self.schedule: DampingSchedule = self._choose(DampingSchedule).build(self.name, settings.rho)
        self.inverse_method: InverseMethod = self._choose(InverseMethod).build()
        self.fisher_type: type[OutputGradients] = self._choose(OutputGradients).part
        super().__init__(params, {"lr": lr})
        self._model: nn.Module | None = None
        self._prepare()
        zero = torch.zeros((), dtype=torch.float64, device=self._params[0].device)
        start = {"steps": 0, "rho": zero + settings.rho, "loss": zero * float("nan")}
        counters = {name: zero.long() for name in ("nonfinite_steps", "damping_clamped")}
        self.state[NATURAL] = {  # type: ignore[index]
            **start, **counters, "active_layers": [], "groups": {}, "unsupported": {}
        }  # fmt: skip

    def _prepare(self) -> None:
        """Build what follows from the parameters and the options, and is not state."""
        self._params = list(self.trained())
        self.unsupported: UnsupportedParams = self._choose(UnsupportedParams).build(self.name)
        self._collector: CurvatureCollector | None = None
        self._groups: list[LayerGroup] = []
        self.stats = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, which watches the copied model from its next step on; ``load_state_dict`` comes here too."""
        super().__setstate__(state)
        if "options" in state:
            self._prepare()

    @abstractmethod
    def scales(self, a_factors: list[Factor], g_factors: list[Factor], least: list[Tensor]) -> Scales:
        """Return the scale c of every ``a_factor`` and every ``g_factor``, (L,), from the factors of all groups.

        Args:
            a_factors: Of all groups.
            g_factors: Of all groups.
            least: The least trace of every ``g_factor`` for this purpose (:func:`least_trace`), (L,).
        """

    @property
    def natural(self) -> dict[str, Any]:
        """The state of the natural gradient: rho, the factors with their inverses, momentum and counters."""
        return self.state[NATURAL]  # type: ignore[index]

    def settings(self) -> dict[str, Any]:
        """Return the options but the learning rates, which groups and schedules have."""
        return {**super().settings(), **vars(self.options)}

    def memory(self) -> dict[str, Any]:
        """Return the state, which keeps the recent scores."""
        return self.natural

    def attach(self, model: nn.Module) -> Self:
        """Watch the model's layers; required before the first step.

        Raises:
            ValueError: If there are parameters without factors, and they are refused.
        """
        if self._collector is not None:
            self._collector.hooks.remove()
        self._model, self._groups = model, []
        self._collector = CurvatureCollector(
            self.name, model, self._params, self.fisher_type, self.options.grad_penalty
        )
        supported = {id(param) for layer in self._collector.layers for param in layer.params}
        self.unsupported.announce(model, [param for param in self._params if id(param) not in supported])
        return self

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which only the constructor may do.

        Raises:
            ValueError: If the state exists already.
        """
        if NATURAL in self.state:
            raise ValueError(f"{self.name}: parameters cannot join once the optimizer has been created")
        super().add_param_group(param_group)

    def step_kind(self) -> Hashable:
        """Return None for a refresh, in which factors are inverted."""
        return None if self.natural["steps"] % self.options.skip == 0 else ()

    @torch.no_grad()
    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Observe, refresh the factors if it is time, update, and return the observation made before the update.

        Raises:
            ValueError: If no model is attached, or the model cannot be used.
        """
        if self._collector is None and self._model is not None:  # a copy
            self.attach(self._model)
        if self._collector is None:
            raise ValueError(f"{self.name}: it must see the model's layers; call attach(model) before the first step")
        self._follow_device()
        state = self.natural
        refresh = state["steps"] % self.options.skip == 0
        found = self._collector.collect(closure, refresh, Ranks.current())
        with torch.autocast(found.loss.device.type, enabled=False):
            self.schedule.before_step(state, found.loss)
            if not self._groups:
                self._group_layers(found)
            grads = {id(param): grad for param, grad in zip(self._params, found.grads, strict=True)}
            G = [group.matrices(grads) for group in self._groups]
            if refresh:
                self._refresh(found, G)
            root = None if refresh or self.schedule.is_constant else self._root()
            D = [group.precondition(own, root) for group, own in zip(self._groups, G, strict=True)]
            loss = found.loss if found.observation.likelihood.is_discrete else None
            steps = self._move(G, D, torch.nn.utils.get_total_norm(found.grads), grads, loss)
        if refresh and self.schedule.uses_ratio:
            predicted = predicted_change([group.factors for group in self._groups], steps, G)
            torch.clear_autocast_cache()  # it holds the weights before the step
            after = Ranks.current().join(closure())[0].nll()
            self.schedule.after_refresh(state, after - found.loss, predicted)
        state["steps"] += 1
        self.follow(found.observation)
        return found.observation

    def _follow_device(self) -> None:
        """Move the state to where the parameters are, if they were moved."""
        device = self._params[0].device
        if self.natural["rho"].device != device:
            self.state[NATURAL] = to_device(self.natural, device)  # type: ignore[index]
            self._groups = []

    def _refresh(self, found: Gradients, G: list[Tensor]) -> None:
        """Add this batch to the factors, and invert them at the present damping, given the gradients G."""
        assert self._collector is not None
        for i in self.natural["active_layers"]:
            if i not in found.output_gradients:
                name = self._collector.layers[i].name
                raise ValueError(f"{self.name}: {name} took part in the first step, and does not now")
        for group in self._groups:
            group.update(found.calls, found.output_gradients, found.samples, Ranks.current())
        root = self.natural["prepared"] = self.natural["rho"].sqrt()
        a_factors, g_factors = ([group.factors[i] for group in self._groups] for i in (0, 1))
        least = [least_trace(own, factor.trace()) for own, factor in zip(G, a_factors, strict=True)]
        a_scales, g_scales = self.scales(a_factors, g_factors, least)
        g_scales = [c.maximum(floor / root.to(c.dtype)) for c, floor in zip(g_scales, least, strict=True)]
        for factor, c in zip([*a_factors, *g_factors], [*a_scales, *g_scales], strict=True):
            factor.prepare(root, c)
        self.natural["figures"] = describe_factors(a_factors, g_factors)

    def _root(self) -> Tensor:
        """Return sqrt(rho) between two refreshes, and count where its change is clamped."""
        state, root = self.natural, self.natural["rho"].sqrt()
        clamped = (root / state["prepared"] - 1).abs() > MAX_DAMPING_CHANGE
        state["damping_clamped"] = state["damping_clamped"] + clamped
        return root

    def _move(
        self, G: list[Tensor], D: list[Tensor], norm: Tensor, grads: dict[int, Tensor], loss: Tensor | None
    ) -> list[Tensor]:
        """Clip, average and take the steps, and return them; if anything is not finite, take none.

        Args:
            G: Gradients of the groups.
            D: The same, preconditioned.
            norm: Norm of the whole gradient.
            grads: Gradients by the parameters' id.
            loss: Mean negative log-likelihood, where it cannot be negative.
        """
        state, settings = self.natural, self.options
        rates = [float(group.param_group["lr"]) for group in self._groups]
        dots = [torch.dot(d.flatten(), own.flatten()) for d, own in zip(D, G, strict=True)]
        kl = 0.5 * torch.stack([lr**2 * dot for lr, dot in zip(rates, dots, strict=True)]).sum()
        finite = (kl + norm).isfinite()
        scale = clip_scale(kl, settings.kl_clip) if settings.kl_clip else torch.ones_like(kl)
        if settings.kl_clip and loss is not None:
            slopes = [lr * dot for lr, dot in zip(rates, dots, strict=True)]
            scale = scale * reachable_scale(scale * torch.stack(slopes).sum(), loss)
        if settings.per_layer:
            scale = scale / len(state["active_layers"])
        steps = []
        for group, d, lr in zip(self._groups, D, rates, strict=True):
            steps.append(-lr * group.average(scale * d, settings.momentum, finite))
            group.move(steps[-1])
        self.unsupported.step(state["unsupported"], [grads[id(param)] for param in self.unsupported.params], finite)
        state["nonfinite_steps"] = state["nonfinite_steps"] + ~finite
        figures = {"grad_norm": norm, "update_norm": torch.nn.utils.get_total_norm(steps), "kl": scale**2 * kl}
        self.stats = {**figures, "kl_scale": scale, "damping": state["rho"], **state["figures"]}
        self.stats |= {name: state[name] for name in ("damping_clamped", "nonfinite_steps")}
        return steps

    def _group_layers(self, found: Gradients) -> None:
        """Group the layers that take part, which the first step shows."""
        assert self._collector is not None
        assert self._model is not None
        state, layers = self.natural, self._collector.layers
        if not state["active_layers"]:
            active = state["active_layers"] = sorted(found.output_gradients)
            if not active:
                raise ValueError(
                    f"{self.name}: the outputs depend on no layer that has Kronecker factors (dense, or convolutional "
                    "in one group, with a trained weight, not under reentrant checkpointing); use another optimizer"
                )
            unused = [layer for i, layer in enumerate(layers) if i not in active]
            self.unsupported.announce(self._model, [param for layer in unused for param in layer.params])
        decay, groups = self.options.factor_decay, self.param_groups
        active = state["active_layers"]
        inverse, shares = self.inverse_method, self.shares_inputs
        self._groups = list(group_layers(layers, active, groups, state["groups"], decay, inverse, shares))
        own = {id(param) for i in active for param in layers[i].params}
        self.unsupported.attach([param for param in self._params if id(param) not in own])

    def replicated(self) -> Iterator[Tensor]:
        """Return the parameters, factors, inverses and momentum, which every process must hold alike."""
        return chain(self.trained(), tensors(self.natural))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore factors, inverses, momentum, damping and the position in the skip period.

        Keys of earlier releases are translated (``OLD_STATE_KEYS``).

        Raises:
            ValueError: If it was saved by another optimizer.
        """
        if NATURAL not in state_dict["state"]:
            raise ValueError(f"{self.name}: the checkpoint holds no Kronecker factors; it is another optimizer's")
        super().load_state_dict(translate_state(copy.deepcopy(state_dict)))
        self.stats, self._groups = {}, []

    def _check_used(self, given: Settings) -> None:
        """Check that no option was given that has no effect: of a part that is not chosen, or not in the paper.

        Raises:
            ValueError: Naming the first.
        """
        defaults = default_arguments(type(self))
        for option in vars(given).keys() & defaults.keys():
            check_paper(self.name, option, vars(given)[option], defaults[option], vars(self.options)[option])
        families = (DampingSchedule, InverseMethod, OutputGradients, UnsupportedParams)
        choices = [self._choose(family) for family in families]
        offered = {name: vars(given)[name] for name in part_options(families) & vars(given).keys()}
        for choice in choices:
            choice.options.clear()
        try:
            distribute(choices, offered, defaults)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def _choose(self, family: type[Part]) -> Choice:
        """Return the part that the settings name, with those of its options that are settings too."""
        given = vars(self.options)
        try:
            choice = choose(family, given[family.kind])
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        for option in choice.part.options().keys() & given.keys():
            choice.options.setdefault(option, given[option])
        return choice


def check_paper(name: str, option: str, value: Any, default: Any, used: Any) -> None:
    """Check that an option was not given whose value ``paper_exact`` replaces.

    Args:
        name: The optimizer's name.
        option: The option.
        value: Its value.
        default: Its default.
        used: The value that is used.

    Raises:
        ValueError: If it was.
    """
    if value not in (used, default):
        raise ValueError(f"{name}: {option} must be left out, or be {used!r}, with paper_exact; got {value!r}")


def translate_state(tree: Any) -> Any:
    """Return a state with the keys of earlier releases replaced by today's."""
    if not isinstance(tree, dict):
        return tree
    return {OLD_STATE_KEYS.get(key, key): translate_state(value) for key, value in tree.items()}
