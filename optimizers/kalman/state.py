r"""The parts of a filter and its state: the covariance, the counters, and how they are saved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate, chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..base import OnlineOptimizer
from ..layer_hooks import head_parameters, last_layer
from ..likelihoods.base import OBSERVATIONS
from ..parts import Choice, Spec, choose, default_arguments, distribute
from ..performance import RECENT
from ..ranges import ABOVE_ONE, NOT_NEGATIVE, POSITIVE, check_arguments, check_ranges
from .covariance.base import Covariance, check_size
from .diagnostics import COUNTERS, LastStep
from .jacobian import JacobianBuilder
from .monitors.base import Monitor
from .noise.base import ObservationNoise
from .predictive import SCALES
from .prior import check_prior, initial_variance
from .rows import RowSelection
from .sharding import Sharding
from .update import check_update

FILTER = "filter"
"""Key of the filter's state. A string, because torch casts state keyed by a parameter to the parameter's type."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}

OLD_NAMES = {
    "begun": "prior_initialized",
    "evidence": "tempering_log_weights",
    "escalations": "cholesky_retries",
    "nonfinite": "nonfinite_steps",
}
"""Tensors of the state that had another name in checkpoints of earlier releases."""


class FilterState(OnlineOptimizer):
    """A Gaussian over the parameters: its mean is the parameters themselves, its covariance is the state.

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: Initial variance of the state, or its upper bound; positive.
        p0_init: ``constant``, ``uniform`` or ``sensitivity``.
        covariance: Name of a covariance, or a mapping with its ``name`` and options.
        noise: Name of an observation noise, or a mapping with its ``name`` and options.
        update: ``prediction`` or ``posterior_mode``: where the observation is linearised.
        observation: ``probabilities`` or ``logits``.
        rho: Regularisation of R-Kalman.
        neumann: Whether it has the first-order form.
        process_noise: q of the prediction.
        adapter_scale: Multiple of the variance by ``sensitivity`` for the matrices that close an adapter's branch.
        top_k: How many classes are distinguished; 0 for all; None for what suits the model.
        rank_tolerance: Trace of the precision that may be left out.
        divergence_threshold: Size of an innovation that counts as divergence, relative to what is observed.
        dtype: Floating type of the state and the algebra.
        vectorize: Whether all rows of the Jacobian are computed in one backward pass.
        chunk_size: Most Jacobian rows computed at once.
        options: Options of the covariance, the noise and the monitors.

    Raises:
        ValueError: If an argument is out of range or no chosen part has it, or the covariance does not fit into memory.
    """

    abstract: ClassVar[bool] = True
    transient = frozenset(
        {"_params", "device", "dtype", "_noise", "_covariance", "_monitors", "_natural", "_rows", "_build", "_settings"}
        | {"_sharding", "_last", "_noise_started", "_head"}
    )

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        p0: float,
        p0_init: str = "constant",
        *,
        covariance: Spec = "diagonal",
        noise: Spec = "ema-2",
        update: str = "prediction",
        observation: str = "probabilities",
        rho: float = 0.0,
        neumann: bool = False,
        process_noise: float = 0.0,
        adapter_scale: float = 1.0,
        top_k: int | None = 0,
        rank_tolerance: float = 0.0,
        divergence_threshold: float = 100.0,
        dtype: str = "float32",
        vectorize: bool = True,
        chunk_size: int = 256,
        **options: Any,
    ) -> None:
        self._kwargs: dict[str, Any] = {
            "covariance": covariance,
            "noise": noise,
            "update": update,
            "observation": observation,
            "rho": rho,
            "neumann": neumann,
            "process_noise": process_noise,
            "adapter_scale": adapter_scale,
            "rows": (top_k, rank_tolerance),
            "divergence_threshold": divergence_threshold,
            "dtype": dtype,
            "jacobian": (vectorize, chunk_size),
            "options": options,
        }
        super().__init__(params, {"p0": p0, "p0_init": p0_init})
        self._prepare()
        self.state[FILTER] = self._start()  # type: ignore[index]

    def _prepare(self) -> None:
        """Build everything that follows from the parameters and the arguments, and is not state."""
        try:
            self._build_parts()
        except ValueError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from None
        self._sharding = Sharding([p.numel() for p in self._params], self._covariance.by_columns)
        self._last: LastStep | None = None
        self._untouched = True  # no step was taken and no state loaded
        self._noise_started = False

    def _build_parts(self) -> None:
        given = self._kwargs
        self._params = list(self.trained())
        self.device = self._params[0].device
        self._check_arguments()
        self.dtype = DTYPES[given["dtype"]]
        covariance, noise, monitors = self._choose_parts()
        self._noise: ObservationNoise | None = None if noise is None else noise.build()
        self._covariance: Covariance = covariance.build([p.shape for p in self._params])
        self._monitors: list[Monitor] = [monitor.build() for monitor in monitors]
        self._set_head(given.get("head"))
        self._natural = self._noise is None or self._noise.from_likelihood
        self._settings = {
            **{name: given[name] for name in ("update", "observation", "rho", "neumann", "process_noise")},
            **dict(zip(("top_k", "rank_tolerance"), given["rows"], strict=True)),
            **{choice.part.kind: choice.part.name for choice in (covariance, noise) if choice is not None},
            **{
                name: value
                for choice in (covariance, noise, *monitors)
                if choice
                for name, value in choice.options.items()
                if name not in self._covariance.convertible
            },
        }
        self._rows = RowSelection(*given["rows"])
        self._rows.check(given["update"], self._noise)
        self._build = JacobianBuilder(self._params, self.dtype, *given["jacobian"])
        self._check_parts()

    def _check_arguments(self) -> None:
        given = self._kwargs
        threshold, q, scale = (given[name] for name in ("divergence_threshold", "process_noise", "adapter_scale"))
        default = default_arguments(type(self)).get("noise")
        check_update(given["update"], given["noise"] if given["noise"] != default else None, given["rho"])
        check_arguments(
            "",
            [
                (name, given[name], given[name] in known, f"be one of {', '.join(known)}")
                for name, known in (("observation", OBSERVATIONS), ("dtype", DTYPES))
            ],
        )
        check_arguments(
            "",
            [
                ("process_noise", q, *NOT_NEGATIVE.judge(q)),
                ("adapter_scale", scale, *POSITIVE.judge(scale)),
                ("divergence_threshold", threshold, *ABOVE_ONE.judge(threshold)),
            ],
        )

    def _choose_parts(self) -> tuple[Choice, Choice | None, list[Choice]]:
        """Return the covariance, the noise unless the update has its own, and the monitors that are switched on."""
        given, options = self._kwargs, self._kwargs["options"]
        covariance = choose(Covariance, given["covariance"])
        noise = None if given["update"] == "posterior_mode" else choose(ObservationNoise, given["noise"])
        monitors = [
            Choice(monitor, {})
            for monitor in Monitor.registry.values()
            if any(options.get(name, default) != default for name, default in monitor.options().items())
        ]
        chosen = [covariance, *([] if noise is None else [noise]), *monitors]
        distribute(chosen, options, default_arguments(type(self)))
        return covariance, noise, monitors

    def _check_parts(self) -> None:
        """Check what the parts need of one another."""
        covariance, monitors = self._covariance, self._monitors
        if self._natural and self._kwargs["observation"] != "probabilities":
            raise ValueError("the likelihood's own noise is that of probabilities: set observation probabilities")
        if covariance.uses_alarm and not any(monitor.raises_alarm for monitor in monitors):
            raise ValueError("forgetting_factor below 1 needs a positive nis_window")
        for option in (name for monitor in monitors if monitor.needs_precision for name in monitor.options()):
            if not self._natural:
                raise ValueError(f"{option} needs noise softmax or update posterior_mode")
        for option in (name for monitor in monitors if monitor.needs_reset for name in monitor.options()):
            if not covariance.can_reset:
                able = ", ".join(name for name, part in Covariance.registry.items() if part.can_reset)
                raise ValueError(f"{option} needs covariance {able}; got {covariance.name}")

    def _start(self) -> dict[str, Tensor]:
        """Return the state before the first step."""
        check_size(self._covariance, self.dtype, self.device)
        prior = self._sharding.part(torch.cat([initial_variance(g, self.dtype) for g in self.param_groups]))
        counters = ("steps", "failed_at", *COUNTERS)
        start = {
            **self._covariance.start(prior),
            **{name: torch.zeros((), dtype=torch.int64, device=self.device) for name in counters},
            "scale": torch.zeros((), dtype=self.dtype, device=self.device),
        }
        if self._observes_outputs:
            start["tempering_log_weights"] = torch.zeros(len(SCALES), dtype=torch.float64, device=self.device)
        for monitor in self._monitors:
            start |= monitor.start(prior, [p.shape for p in self._params])
        if any(group["p0_init"] == "sensitivity" for group in self.param_groups):
            start["prior_initialized"] = torch.zeros((), dtype=torch.bool)  # on the host, which must know it
            start["prior_factor"] = torch.zeros(len(self._params), dtype=self.dtype, device=self.device)
        return start

    @property
    def _observes_outputs(self) -> bool:
        """True if the coordinates observed are those of the outputs, whose covariance is then known."""
        return self._natural or self._kwargs["observation"] == "logits"

    @property
    def filter(self) -> dict[str, Tensor]:
        """The filter's state: its covariance, what the noise and the monitors remember, and counters."""
        return self.state[FILTER]  # type: ignore[index]

    def settings(self) -> dict[str, Any]:
        """Return the parts and options that make the filter what it is; filters of the same are interchangeable."""
        return self._settings

    def memory(self) -> dict[str, Any]:
        """Return the filter's state, which keeps the recent scores."""
        return self.filter

    @property
    def _host_names(self) -> frozenset[str]:
        """Names of the tensors that the host must know, wherever the parameters are."""
        return self._covariance.on_host | {"prior_initialized"}

    def _keep_on_host(self) -> None:
        """Bring back what the host must know: a trainer moves all of an optimizer's state to the device."""
        for name in self._host_names:
            found = self.filter.get(name)
            if found is not None and found.device.type != "cpu":
                self.filter[name] = found.cpu()

    def attach(self, model: nn.Module) -> Self:
        """Watch the model's dense layers: those that are applied at one position need not form their Jacobian.

        The model also shows which parameters are its head (:func:`optimizers.layer_hooks.head_parameters`).
        """
        self._build.attach(model)
        self._rows.suit(model)
        self._kwargs["head"] = head_parameters(model, self._params)
        self._set_head(self._kwargs["head"])
        if self._untouched:  # the monitors' part of the prior is that of the head
            for monitor in self._monitors:
                monitor.set_prior(self.filter, self._sharding.whole(self._variance()))
        return self

    def _set_head(self, head: list[int] | None) -> None:
        """Remember which parameters are the model's head, and tell the monitors which columns of the state they are.

        Args:
            head: Indices of its parameters; None where no model was seen: the last layer in the order of the state.
        """
        chosen = last_layer([p.shape for p in self._params]) if head is None else head
        self._head = chosen
        for monitor in self._monitors:
            monitor.head = self._head_columns()

    def _head_columns(self) -> list[slice]:
        """Return the columns of the state that belong to the head, as the covariance has them."""
        sizes = [math.prod(shape) for shape in self._covariance.shapes]
        ends = list(accumulate(sizes))
        return [slice(ends[i] - sizes[i], ends[i]) for i in self._head]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group before the first step is taken.

        Raises:
            ValueError: If its p0 is not positive, its p0_init unknown, a parameter frozen or not of real floating
                type, or the filter exists already.
        """
        name = type(self).__name__
        if FILTER in self.state:
            raise ValueError(f"{name}: parameters cannot join a filter that has been created")
        super().add_param_group(param_group)
        check_ranges(name, self.param_groups[-1], {"p0": POSITIVE})
        check_prior(name, self.param_groups[-1])

    def variance(self) -> list[Tensor]:
        """Return the filter's variance of every parameter, shaped like it, in the order of the groups."""
        parts = self._variance().split([param.numel() for param in self._params])
        return [part.view_as(param) for part, param in zip(parts, self._params, strict=True)]

    def _variance(self) -> Tensor:
        return self._sharding.whole(self._covariance.variance(self._covariance.select(self.filter)))

    def replicated(self) -> Iterator[Tensor]:
        """Yield the parameters, and all state but the covariance and the scores, which a process may ask for alone."""
        kept = {*self._covariance.names(), RECENT}
        return chain(self.trained(), (tensor for name, tensor in self.filter.items() if name not in kept))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the whole filter, however many ranks share it; all of them must call this."""
        saved = super().state_dict()
        whole = {name: self._sharding.whole(self.filter[name]) for name in self._covariance.names()}
        return {**saved, "state": {**saved["state"], FILTER: {**self.filter, **whole}}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the filter; names and tensors of earlier releases are translated.

        Raises:
            ValueError: If it was saved for another covariance, a state of another size, or another floating type.
        """
        self._untouched = False
        found = {OLD_NAMES.get(key, key): value for key, value in state_dict["state"].get(FILTER, {}).items()}
        saved = self._covariance.upgrade(found)
        for key, own in self._covariance.select(self.filter).items():
            self._check_saved(key, own, saved)
            saved[key] = self._sharding.part(saved[key])
        self._check_remembered(saved)
        kept = {key: own for key, own in self.filter.items() if key not in saved and key != RECENT}
        saved = {**kept, **saved}  # of other releases
        super().load_state_dict({**state_dict, "state": {**state_dict["state"], FILTER: saved}})

    def place(self, tree: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Return copies of the filter's tensors on the device, but those that the host must know."""
        return {key: tensor.to("cpu" if key in self._host_names else device, copy=True) for key, tensor in tree.items()}

    def _check_remembered(self, saved: dict[str, Tensor]) -> None:
        """Check that a saved filter remembers what this one does, once it has taken steps, and nothing else."""
        needed = set() if self._noise is None else set(self._noise.start(1, torch.zeros(1, 1)))
        missing = needed - saved.keys() if int(saved.get("steps", 0)) else set()
        foreign = saved.keys() - self.filter.keys() - needed - {RECENT, "alarm"}
        if missing or foreign:
            differs = f"lacks {', '.join(sorted(missing))}" if missing else f"has {', '.join(sorted(foreign))}"
            raise ValueError(
                f"{type(self).__name__}: the checkpoint holds a filter with another noise or other monitors: it "
                f"{differs}; build it with the options of the checkpoint, or start without its state"
            )

    def _check_saved(self, key: str, own: Tensor, saved: dict[str, Tensor]) -> None:
        """Check that a saved tensor of the covariance fits."""
        name = type(self).__name__
        if key not in saved:
            raise ValueError(f"{name}: the checkpoint holds no filter with covariance {self._covariance.name}")
        expected = (self._covariance.n,) if self._sharding.divided else tuple(own.shape)
        if tuple(saved[key].shape) != expected:
            raise ValueError(
                f"{name}: the checkpoint holds a filter over another state: its {key} is "
                f"{tuple(saved[key].shape)}, here it is {expected}"
            )
        if saved[key].dtype != own.dtype:
            raise ValueError(
                f"{name}: the checkpoint holds a filter in {saved[key].dtype}, this one has dtype {own.dtype} for "
                f"its {key}; build it with the options of the checkpoint, or start without its state"
            )

    def follow_device(self) -> None:
        """Move the state to where the parameters are, if they were moved."""
        if self._params[0].device == self.device:
            return
        self.device = self._params[0].device
        self.state[FILTER] = self.place(self.filter, self.device)  # type: ignore[index]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, which must be attached to its own model; ``load_state_dict`` comes here too."""
        super().__setstate__(state)
        if "_kwargs" in state:
            self._prepare()
