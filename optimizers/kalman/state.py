r"""What a filter is made of and remembers: its covariance, its counters, and how they are saved."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..base import OnlineOptimizer
from . import nis, page_test
from .covariance import Covariance
from .covariance.base import check_size
from .diagnostics import LastStep
from .jacobian import JacobianBuilder
from .noise import NOISES, ObservationNoise
from .predictive import FACTORS
from .prior import check_prior, initial_variance
from .settings import DTYPES, Settings
from .sharding import Sharding

FILTER = "filter"
"""Key of the filter's state. A string, because torch casts state keyed by a parameter to the parameter's type."""

COUNTERS = ("steps", "failed_at", "nonfinite", "exploded", "escalations", "clamped")


class FilterState(OnlineOptimizer):
    """A Gaussian over the parameters: its mean is they themselves, its covariance is the state.

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: Initial variance of the state, or its upper bound; positive.
        p0_init: ``constant``, ``uniform`` or ``sensitivity``.
        settings: The rest.

    Raises:
        ValueError: If an argument is out of range, or the covariance too large for the machine.
    """

    def __init__(self, params: torch.optim.optimizer.ParamsT, p0: float, p0_init: str, settings: Settings) -> None:
        settings.check(type(self).__name__)
        self.settings = settings
        super().__init__(params, {"p0": p0, "p0_init": p0_init})
        self._prepare()
        check_size(self._covariance, settings.covariance, self.dtype, self.device)
        prior = self._sharding.part(torch.cat([initial_variance(g, self.dtype) for g in self.param_groups]))
        counters = {name: torch.zeros((), dtype=torch.int64, device=self.device) for name in COUNTERS}
        scale = torch.zeros((), dtype=self.dtype, device=self.device)
        start = {**self._covariance.start(prior), **counters, "scale": scale}
        if self._foretells:
            start["evidence"] = self._no_evidence()
        if settings.window:
            start["nis"] = nis.start(settings.window, scale)
        if settings.renew:
            start |= {**page_test.start(scale), "tail": prior[-self._tail :].clone()}
        if any(group["p0_init"] == "sensitivity" for group in self.param_groups):
            start["begun"] = torch.zeros((), dtype=torch.bool)  # the host must know it, so it lives there
        self.state[FILTER] = start  # type: ignore[index]

    @property
    def _foretells(self) -> bool:
        """Whether the coordinates observed are those of the outputs, whose covariance is then known."""
        return self._noise.natural or self.settings.observation == "logits"

    def _no_evidence(self) -> Tensor:
        return torch.zeros(len(FACTORS), dtype=torch.float64, device=self.device)

    def _prepare(self) -> None:
        """All that follows from the parameters and the settings, and is not state."""
        settings = self.settings
        self.dtype = DTYPES[settings.dtype]
        self._params = list(self.trained())
        self.device = self._params[0].device
        shapes = [param.shape for param in self._params]
        self._covariance: Covariance = settings.build_covariance(shapes)
        self._tail = page_test.last_layer(shapes)
        self._sharding = Sharding([shape.numel() for shape in shapes], self._covariance.by_columns)
        self._noise: ObservationNoise = NOISES[settings.noise](settings.r0, settings.beta)
        self._build = JacobianBuilder(self._params, self.dtype, settings.jacobian, settings.max_rows)
        self._last: LastStep | None = None

    @property
    def filter(self) -> dict[str, Tensor]:
        """The filter's state: its covariance, what the noise remembers after the first step, and counters."""
        return self.state[FILTER]  # type: ignore[index]

    def attach(self, model: nn.Module) -> Self:
        """Watch the model's dense layers: those seen at one position need not materialise their Jacobian."""
        self._build.attach(model)
        return self

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
        check_prior(name, self.param_groups[-1])

    def variance(self) -> list[Tensor]:
        """The filter's variance of every parameter, shaped like it, in the order of the groups."""
        parts = self._variance().split([param.numel() for param in self._params])
        return [part.view_as(param) for part, param in zip(parts, self._params, strict=True)]

    def _variance(self) -> Tensor:
        return self._sharding.whole(self._covariance.variance(self._covariance.select(self.filter)))

    def replicated(self) -> Iterator[Tensor]:
        """The parameters, and what the noise remembers."""
        kept = self._covariance.names()
        return chain(self.trained(), (tensor for name, tensor in self.filter.items() if name not in kept))

    def state_dict(self) -> dict[str, Any]:
        """The state of the whole filter, however many ranks it is shared out over; all of them call this."""
        saved = super().state_dict()
        whole = {name: self._sharding.whole(self.filter[name]) for name in self._covariance.names()}
        return {**saved, "state": {**saved["state"], FILTER: {**self.filter, **whole}}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the filter.

        Raises:
            ValueError: If it was saved for another covariance, a state of another size, or another floating type.
        """
        name, saved = type(self).__name__, dict(state_dict["state"].get(FILTER, {}))
        places = {key: tensor.device for key, tensor in self.filter.items()}
        for key, own in self._covariance.select(self.filter).items():
            if key not in saved:
                raise ValueError(f"{name}: the checkpoint holds no filter with covariance {self.settings.covariance}")
            expected = (self._covariance.n,) if self._sharding.divided else tuple(own.shape)
            if tuple(saved[key].shape) != expected:
                raise ValueError(
                    f"{name}: the checkpoint holds a filter over another state: its {key} is "
                    f"{tuple(saved[key].shape)}, here it is {expected}"
                )
            if saved[key].dtype != own.dtype:
                raise ValueError(
                    f"{name}: the checkpoint holds a filter in {saved[key].dtype}, this one has dtype {self.dtype}"
                )
            saved[key] = self._sharding.part(saved[key])
        saved = {**{key: own for key, own in self.filter.items() if key not in saved}, **saved}  # of old, or of others
        super().load_state_dict({**state_dict, "state": {**state_dict["state"], FILTER: saved}})
        copies = {key: tensor.to(places.get(key, self.device), copy=True) for key, tensor in self.filter.items()}
        self.state[FILTER] = copies  # type: ignore[index]

    def __getstate__(self) -> dict[str, Any]:
        """All but the watched layers: a copy wants to be attached to its own model."""
        return {**super().__getstate__(), "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy; torch's ``load_state_dict`` comes this way too, without the settings."""
        super().__setstate__(state)
        if "settings" in state:
            self._prepare()
