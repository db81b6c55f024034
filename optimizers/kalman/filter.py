r"""The filter that all Kalman optimizers share: observe, solve in the space of the rows, correct."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Closure
from ..likelihoods.base import Innovation, Observation
from ..likelihoods.categorical import leading
from . import nis, page_test
from .blocks import BlockJacobian
from .diagnostics import LastStep, failure, saturation, statistics
from .measurement import Measurement, Moments, Natural
from .posterior_mode import Mode
from .predictive import mixed_probabilities, output_covariance, weigh
from .prior import sensitivity_factor
from .state import FilterState


class KalmanOptimizer(FilterState):
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
        if self.settings.renew:
            self._renew(joint)
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
        evidence = None if joint.target.is_floating_point() else state.get("evidence")  # classes alone have it
        self._last = LastStep(e, change, measurement, HPH, innovation, joint.outputs.detach(), evidence)
        self._judge(joint, finite)
        return joint

    def _observe(self, observation: Observation) -> Innovation:
        if self._noise.natural:
            full, k = observation.natural(), self.settings.likely
            if self.settings.row_tolerance:
                assert full.factor is not None
                return leading(full, full.factor @ full.factor.mT, self.settings.row_tolerance)
            contrasts = observation.likelihood.contrasts(observation.target, k) if k else None
            return full if contrasts is None else full.project(contrasts)
        return observation.innovation(self.settings.observation)

    def _begin(self, H: BlockJacobian) -> None:
        """Set the prior by the first rows of H that are finite."""
        state, sharding = self.filter, self._sharding
        rows = H.dense()
        factor = sensitivity_factor(sharding.whole(rows.square().mean(0)), self.param_groups)
        if bool(factor.isfinite().all()):
            prior = factor * self._variance()
            state.update(self._covariance.start(sharding.part(prior)))
            if "tail" in state:
                state["tail"] = prior[-self._tail :].clone()
            state["begun"].fill_(True)

    def _renew(self, observation: Observation) -> None:
        """Let the last layer be learnt anew where the stream has changed."""
        state = self.filter
        watched, changed = page_test.watch(state, observation)
        state.update(watched)
        self._covariance.renew(state, self.settings.renew * state["tail"], changed)

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
        value = nis.normalised_innovation_squared(innovation, HPH)
        state["nis"] = nis.remember(state["nis"], state["steps"], value)
        state["alarm"] = state["nis"].mean() > self._band(innovation)[1]

    def _band(self, innovation: Innovation) -> tuple[float, float]:
        return nis.band(self.settings.window * nis.coordinates(innovation))

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

    @property
    def stats(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Figures of the last step, worked out when asked for; empty before the first."""
        if self._last is None:
            return {}
        figures = statistics(self.filter, self._variance(), self._last)
        if self.settings.window:
            low, high = map(torch.tensor, self._band(self._last.innovation))
            figures |= {"nis": self.filter["nis"].mean(), "nis_low": low, "nis_high": high}
        if self.settings.renew:
            figures["changes"] = self.filter["changes"].clone()
        return figures

    def predictive(self) -> Tensor | None:
        """Probabilities of the last batch's classes before the update, averaged over the filter's posterior, (B, m).

        How wide that is taken to be was learnt from the batches before. None before the first step, and where the
        coordinates observed are not those of the outputs.
        """
        found, evidence = self._outputs(), self._last and self._last.evidence
        return None if found is None or evidence is None else mixed_probabilities(*found, evidence)

    def _outputs(self) -> tuple[Tensor, Tensor] | None:
        """Mean and covariance of the last batch's outputs before the update, where they are known."""
        last = self._last
        if last is None or not self._foretells or last.innovation.is_projected or last.outputs.shape[1] < 2:
            return None
        C = output_covariance(last.HPH, last.innovation.cotangents)
        return last.outputs.to(C.dtype), C

    def _judge(self, observation: Observation, finite: Tensor) -> None:
        """Learn from the batch how wide the posterior of the outputs is to be taken."""
        found = self._outputs()
        if found is not None and not observation.target.is_floating_point():
            before = self.filter["evidence"]
            self.filter["evidence"] = torch.where(finite, weigh(before, *found, observation.target), before)

    def failure(self) -> str | None:
        """What went wrong so far, naming the step, and the remedy; waits for the device."""
        return failure(self.filter, self.settings)

    def advice(self) -> str | None:
        """Say that the filter is saturated, where it is."""
        return saturation(self.filter, self.settings)


def _all_finite(tensors: list[Tensor]) -> Tensor:
    """Whether no entry of the floating tensors is infinite or NaN, by one sum over each."""
    total = torch.stack([tensor.sum().double() for tensor in tensors if tensor.is_floating_point()]).sum()
    return total.isfinite()
