r"""The filter that all Kalman optimizers share: observe, solve in the space of the rows, correct."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from optimizers import consistency
from optimizers.base import Closure, OnlineOptimizer
from optimizers.blocks import BlockJacobian
from optimizers.covariance import COVARIANCES, Covariance
from optimizers.covariance.base import check_size
from optimizers.diagnostics import LastStep, failure, saturation, statistics
from optimizers.jacobian import JacobianBuilder
from optimizers.likelihoods import Innovation, Observation
from optimizers.measurement import Measurement, Moments, Natural
from optimizers.mode import Mode
from optimizers.noise import NOISES, ObservationNoise
from optimizers.predictive import moderated_probabilities, output_covariance
from optimizers.prior import check_prior, initial_variance, sensitivity_factor
from optimizers.settings import DTYPES, Settings
from optimizers.sharding import Sharding

FILTER = "filter"
"""Key of the filter's state. A string, because torch casts state keyed by a parameter to the parameter's type."""

COUNTERS = ("steps", "failed_at", "nonfinite", "exploded", "escalations", "clamped")


class KalmanOptimizer(OnlineOptimizer):
    r"""An extended Kalman filter over the parameters, with identity transition.

    .. math::
        P &\leftarrow P + q I                                                       & (2b)\\
        R &\leftarrow \text{the noise, of } e \text{ and } H P H^\top               & (7, 12)\\
        \theta &\leftarrow \theta + K e, \quad K = P H^\top (H P H^\top + R)^{-1}   & (3a, 3b)\\
        P &\leftarrow P - K H P                                                     & (3c)

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
        if settings.window:
            start["nis"] = consistency.start(settings.window, scale)
        if any(group["p0_init"] == "sensitivity" for group in self.param_groups):
            start["begun"] = torch.zeros((), dtype=torch.bool)  # the host must know it, so it lives there
        self.state[FILTER] = start  # type: ignore[index]

    def _prepare(self) -> None:
        """All that follows from the parameters and the settings, and is not state."""
        settings = self.settings
        self.dtype = DTYPES[settings.dtype]
        self._params = list(self.trained())
        self.device = self._params[0].device
        shapes = [param.shape for param in self._params]
        sizes = settings.rank, settings.buffer, settings.keep, settings.forget
        self._covariance: Covariance = COVARIANCES[settings.covariance](shapes, *sizes)
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

    @torch.no_grad()
    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Observe, update theta and P, and return the observation made before the update."""
        with torch.enable_grad():
            observation = closure()
        with torch.autocast(observation.outputs.device.type, enabled=False):
            return self._filter(observation)

    def _filter(self, observation: Observation) -> Observation:
        """The equations of the class docstring, in the filter's own precision, for all ranks' samples."""
        sharding = self._sharding
        joint, sizes = sharding.join(observation)
        innovation = self._observe(joint)
        e = innovation.residual.to(self.dtype)
        own = innovation.cotangents[sharding.ranks.own(sizes)]
        H = sharding.exchange(self._build(observation.outputs, own), sizes)

        if not self.filter.get("begun", True):
            self._begin(H)
        P = self._prior()
        HPH, projected = self._covariance.project(P, H)
        HPH = sharding.sum(HPH)
        measurement, remembered = self._measure(joint, innovation, e, HPH)
        gain, level, valid = measurement.solve(HPH)
        change, posterior, clamped = self._covariance.correct(P, H, projected, gain.to(self.dtype), measurement)

        finite = valid & _all_finite([change, *posterior.values(), *remembered.values()])
        finite, clamped = sharding.agree(finite, clamped)
        change, state = torch.where(finite, change, 0), self.filter
        if self.settings.window:
            self._watch(innovation, HPH)
        self._covariance.commit(state, P, change, posterior, finite)
        change = sharding.whole(change)
        for name, value in remembered.items():
            state[name] = torch.where(finite, value, state.get(name, value))
        self._count(e, innovation.observed, finite, level, torch.where(finite, clamped, 0))
        self._move(change)
        self._last = LastStep(e, change, measurement, HPH, innovation, joint.outputs.detach())
        return joint

    def _observe(self, observation: Observation) -> Innovation:
        if self._noise.natural:
            return observation.natural(self.settings.row_tolerance)
        return observation.innovation(self.settings.observation)

    def _begin(self, H: BlockJacobian) -> None:
        """Set the prior by the first rows of H that are finite."""
        state, sharding = self.filter, self._sharding
        rows = H.dense()
        factor = sensitivity_factor(sharding.whole(rows.square().mean(0)), self.param_groups)
        if bool(factor.isfinite().all()):
            state.update(self._covariance.start(sharding.part(factor * self._variance())))
            state["begun"].fill_(True)

    def _prior(self) -> dict[str, Tensor]:
        """The covariance before the batch, with process noise (eq. 2b)."""
        P = self._covariance.select(self.filter)
        q = self.settings.process_noise
        return self._covariance.predict(P, q) if q else P

    def _measure(
        self, observation: Observation, innovation: Innovation, e: Tensor, HPH: Tensor
    ) -> tuple[Measurement, dict[str, Tensor]]:
        """What the batch says, and what the noise remembers of it."""
        settings = self.settings
        if self._noise.at_mode:
            return Mode(observation, innovation), {}
        if innovation.factor is not None:
            return Natural(e, innovation.factor, settings.rho), {}
        state, d = self.filter, e.shape[1]
        if "R" not in state:
            state.update(self._noise.start(d, e))
        if len(state["R"]) != d:
            name = type(self).__name__
            raise ValueError(f"{name}: the filter observed {len(state['R'])} coordinates so far, now {d}")
        R, remembered = self._noise.update(state, e, HPH)
        return Moments(e, R, settings.rho, settings.neumann), remembered

    def _watch(self, innovation: Innovation, HPH: Tensor) -> None:
        """Remember how large the innovation is beside what was expected, and whether that is too large of late."""
        state = self.filter
        nis = consistency.normalised_innovation_squared(innovation, HPH)
        state["nis"] = consistency.remember(state["nis"], state["steps"], nis)
        state["alarm"] = state["nis"].mean() > self._band(innovation)[1]

    def _band(self, innovation: Innovation) -> tuple[float, float]:
        return consistency.band(self.settings.window * innovation.residual.numel())

    def _count(self, e: Tensor, observed: Tensor, finite: Tensor, level: Tensor, clamped: Tensor) -> None:
        """Count what happened; an innovation explodes where it dwarfs 1 and the mean size of what is observed."""
        state = self.filter
        state["steps"] += 1
        drift = (observed.norm(dim=1).mean() - state["scale"]) / state["steps"]
        state["scale"] += torch.where(finite, drift, 0)
        exploded = e.norm(dim=1).amax() > self.settings.explode * state["scale"].clamp_min(1)
        failed = ~finite | exploded
        state["failed_at"] = torch.where((state["failed_at"] == 0) & failed, state["steps"], state["failed_at"])
        names = ("nonfinite", "exploded", "escalations", "clamped")
        torch._foreach_add_([state[name] for name in names], [(~finite).long(), exploded.long(), level, clamped])

    def _move(self, change: Tensor) -> None:
        parts = change.split([param.numel() for param in self._params])
        steps = [part.view_as(param).to(param.dtype) for part, param in zip(parts, self._params, strict=True)]
        torch._foreach_add_(self._params, steps)

    def variance(self) -> list[Tensor]:
        """The filter's variance of every parameter, shaped like it, in the order of the groups."""
        parts = self._variance().split([param.numel() for param in self._params])
        return [part.view_as(param) for part, param in zip(parts, self._params, strict=True)]

    def _variance(self) -> Tensor:
        return self._sharding.whole(self._covariance.variance(self._covariance.select(self.filter)))

    @property
    def stats(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Figures of the last step, worked out when asked for; empty before the first."""
        if self._last is None:
            return {}
        figures = statistics(self.filter, self._variance(), self._last)
        if self.settings.window:
            low, high = map(torch.tensor, self._band(self._last.innovation))
            figures |= {"nis": self.filter["nis"].mean(), "nis_low": low, "nis_high": high}
        return figures

    def predictive(self) -> Tensor | None:
        """Probabilities of the last batch's classes before the update, averaged over the filter's posterior, (B, m).

        None before the first step, and where the coordinates observed are not those of the outputs.
        """
        last = self._last
        orthogonal = self._noise.natural or self.settings.observation == "logits"
        if last is None or not orthogonal or last.innovation.probed or last.outputs.shape[1] < 2:
            return None
        C = output_covariance(last.HPH, last.innovation.cotangents)
        return moderated_probabilities(last.outputs.to(C.dtype), C)

    def failure(self) -> str | None:
        """What went wrong so far, naming the step, and the remedy; waits for the device."""
        return failure(self.filter, self.settings)

    def advice(self) -> str | None:
        """Say that the filter is saturated, where it is."""
        return saturation(self.filter, self.settings)

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


def _all_finite(tensors: list[Tensor]) -> Tensor:
    """Whether no entry of the floating tensors is infinite or NaN, by one sum over each."""
    total = torch.stack([tensor.sum().double() for tensor in tensors if tensor.is_floating_point()]).sum()
    return total.isfinite()
