r"""The filter that all Kalman optimizers share: observe, solve in the space of the rows, correct."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..base import Closure, observe
from ..growth import kept_positions
from ..likelihoods.base import Innovation, Likelihood, Observation
from ..parts import State
from .blocks import BlockJacobian
from .covariance.base import Covariance
from .diagnostics import REMEDIES, LastStep, check_divergence, diagnose, diagnose_mode, statistics
from .posterior_mode import PosteriorModeUpdate
from .predictive import (
    cubature_predictive,
    output_covariance,
    output_factor,
    scaled_predictive,
    tempered_predictive,
    update_log_weights,
)
from .prior import combined_squares, initial_variance, probed_output_layer, sensitivity_factor, zero_matrices
from .rows import RowSelection
from .state import FILTER, FilterState
from .step_cost import announce_cost
from .update import GaussianUpdate, MeasurementUpdate, NaturalParameterUpdate


class KalmanOptimizer(FilterState):
    r"""Extended Kalman filter over the parameters, with identity transition.

    .. math::
        P &\leftarrow P + q I                                                       & (2b)\\
        R &\leftarrow \text{the noise, of } e \text{ and } H P H^\top               & (7, 12)\\
        \theta &\leftarrow \theta + K e, \quad K = P H^\top (H P H^\top + R)^{-1}   & (3a, 3b)\\
        P &\leftarrow P - K H P                                                     & (3c)

    Its arguments are those of :class:`FilterState`; the public optimizers document the ones they have.
    """

    abstract: ClassVar[bool] = True
    row_cost: ClassVar[float] = 0.2  # measured on transformers on a CPU
    remedy: ClassVar[str] = "take a smaller --optimizer.p0"

    @classmethod
    def count_rows(cls, coordinates: int, options: dict[str, Any], is_adapted: bool) -> int:
        """Return the most rows of the Jacobian of a sample, fewer than its coordinates with ``top_k``."""
        option = inspect.signature(cls).parameters.get("top_k")
        top_k = options.get("top_k", option.default) if option else 0
        return RowSelection(top_k).count(coordinates, is_adapted)

    def step_kind(self) -> Hashable:
        """Return what the host knows of the state; None for the first step, and while there is no prior yet."""
        if self._last is None or not self.filter.get("prior_initialized", True):
            return None
        return tuple(int(self.filter[name]) for name in sorted(self._host_names) if name in self.filter)

    @torch.no_grad()
    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Observe, update theta and P, and return the observation made before the update."""
        self.follow_device()
        self._keep_on_host()
        if not self.filter.get("prior_initialized", True):
            self._probe_prior(closure)
        with torch.enable_grad():
            observation = observe(closure)
        with torch.autocast(observation.outputs.device.type, enabled=False):
            return self._filter(observation)

    def _filter(self, observation: Observation) -> Observation:
        """Apply the equations of the class docstring, in the filter's own dtype, to the samples of all ranks."""
        self._untouched = False
        sharding, covariance, state = self._sharding, self._covariance, self.filter
        joint, innovation, H = self._linearize(observation)
        e = innovation.residual.to(self.dtype)

        if not state.get("prior_initialized", True):
            self._initialize_prior(H)
        for monitor in self._monitors:
            monitor.before(state, covariance, joint)
        P = self._predict()
        HPH, projected = covariance.project(P, H)
        HPH = sharding.sum(HPH)
        update, remembered = self._measure(joint, innovation, e, HPH)
        gain, level, valid, remaining = update.solve(HPH)
        delta, posterior, clamped = covariance.correct(P, H, projected, gain.to(self.dtype), update)

        finite = valid & _all_finite([delta, *posterior.values(), *remembered.values()])
        finite, clamped = sharding.agree(finite, clamped)
        for monitor in self._monitors:
            monitor.after(state, innovation, HPH)
        covariance.commit(state, P, posterior, finite)
        delta = sharding.whole(torch.where(finite, delta, 0))
        for name, value in remembered.items():
            state[name] = torch.where(finite, value, state.get(name, value))
        self._count(e, innovation.observed, finite, level, torch.where(finite, clamped, 0))
        self._move(delta)
        self.follow(joint, finite, residual=e, remaining=remaining)
        scaled, log_weights = self._scaled_predictive(joint, innovation, HPH), state.get("tempering_log_weights")
        before = None if log_weights is None else log_weights.clone()  # the state may be overwritten in place
        self._last = LastStep(e, delta, update, HPH, innovation, scaled, before)
        if scaled is not None and log_weights is not None:
            learnt = update_log_weights(log_weights, scaled, joint.target)
            state["tempering_log_weights"] = torch.where(finite, learnt, log_weights)
        return joint

    def _linearize(self, observation: Observation) -> tuple[Observation, Innovation, BlockJacobian]:
        """Return the observation of all ranks, its residuals and cotangents, and this rank's part of H."""
        joint, sizes = self._sharding.join(observation)
        innovation = self._observe(joint)
        own = innovation.cotangents[self._sharding.ranks.own(sizes)]
        announce = partial(self._announce, innovation.residual.to(self.dtype)) if self._last is None else None
        return joint, innovation, self._sharding.exchange(self._build(observation.outputs, own, announce), sizes)

    def _announce(self, e: Tensor, elements: int) -> None:
        """Warn what the first step costs, given the residuals, (B, d), and the elements of the Jacobian's blocks."""
        name, remedy = type(self).__name__, self._fewer_rows()
        announce_cost(name, e.numel(), e.shape[1], elements, self._covariance, e, remedy)

    def _fewer_rows(self) -> str:
        """Return how the rows of the Jacobian become fewer."""
        if self._has("top_k"):
            return "--optimizer.top_k 1 distinguishes the most probable class and the label: a row or two per sample"
        return "take fewer classes or a smaller batch, or Filtune with --optimizer.top_k 1: a row or two per sample"

    def _observe(self, observation: Observation) -> Innovation:
        """Return the residuals and cotangents in the coordinates observed."""
        if self._natural:
            return self._rows(observation)
        return observation.innovation(self._kwargs["observation"])

    def _probe_prior(self, closure: Closure) -> None:
        """Set the prior by the rows of H under a random output layer, where that layer starts at zero.

        No tensor before a layer of zeros has a derivative; one pass with random weights in it shows those that the
        tensors will have. Other matrices that are zero, such as lora_B, hide nothing but their partner: they are no
        output layer.
        """
        matrices = zero_matrices([self._params[i] for i in self._head])
        if not matrices:
            return
        squares, m = self._mean_squares(closure)
        matrices = [matrix for matrix in matrices if len(matrix) == m]
        if not matrices:
            return
        with probed_output_layer(matrices):
            probed, _ = self._mean_squares(closure)
        self._set_prior(combined_squares(squares, probed, [param.numel() for param in self._params]))

    def _mean_squares(self, closure: Closure) -> tuple[Tensor, int]:
        """Return the mean over the rows of H of its squared entries, (n,), and the number of outputs."""
        with torch.enable_grad():
            observation = observe(closure)
        with torch.autocast(observation.outputs.device.type, enabled=False):
            H = self._linearize(observation)[2]
        return self._sharding.whole(H.dense().square().mean(0)), observation.outputs.shape[1]

    def _initialize_prior(self, H: BlockJacobian) -> None:
        """Set the prior by the first rows of H that are finite."""
        self._set_prior(self._sharding.whole(H.dense().square().mean(0)))

    def _set_prior(self, squares: Tensor) -> None:
        """Set the prior by the mean over the rows of H of its squared entries, (n,), where they are finite."""
        state = self.filter
        head = [self._params[i] for i in self._head]
        factor = sensitivity_factor(squares, self.param_groups, head, self._kwargs["adapter_scale"])
        if bool((squares + factor).isfinite().all()):  # an infinite derivative would make a variance of zero
            prior = factor * self._variance()
            state.update(self._covariance.start(self._sharding.part(prior)))
            for monitor in self._monitors:
                monitor.set_prior(state, prior)
            state["prior_initialized"].fill_(True)
            parts = factor.split([p.numel() for p in self._params])
            state["prior_factor"] = torch.stack([part[0] if len(part) else part.new_ones(()) for part in parts])

    def _predict(self) -> State:
        """Return the covariance before the batch, with process noise (eq. 2b)."""
        P, q = self._covariance.select(self.filter), self._kwargs["process_noise"]
        return self._covariance.predict(P, q) if q else P

    def _measure(
        self, observation: Observation, innovation: Innovation, e: Tensor, HPH: Tensor
    ) -> tuple[MeasurementUpdate, State]:
        """Return the update of the batch, and what the noise remembers of it."""
        rho, noise = self._kwargs["rho"], self._noise
        if noise is None:
            return PosteriorModeUpdate(observation, innovation), {}
        if noise.from_likelihood:
            assert innovation.factor is not None
            return NaturalParameterUpdate(e, innovation.factor, rho), {}
        state, d = self.filter, e.shape[1]
        if not self._noise_started:
            state.update({name: value for name, value in noise.start(d, e).items() if name not in state})
            self._noise_started = True
        if "R" in state and len(state["R"]) != d:
            name = type(self).__name__
            raise ValueError(f"{name}: the filter observed {len(state['R'])} coordinates so far, now {d}")
        R, remembered = noise.update(state, e, HPH)
        return GaussianUpdate(e, R, rho, self._kwargs["neumann"]), remembered

    def _count(self, e: Tensor, observed: Tensor, finite: Tensor, level: Tensor, clamped: Tensor) -> None:
        """Update the counters; an innovation explodes where it exceeds the mean size of what is observed, or 1, by
        the threshold.
        """
        state = self.filter
        state["steps"] += 1
        drift = (observed.norm(dim=1).mean() - state["scale"]) / state["steps"]
        state["scale"] += torch.where(finite, drift, 0)
        exploded = e.norm(dim=1).amax() > self._kwargs["divergence_threshold"] * state["scale"].clamp_min(1)
        failed = ~finite | exploded
        state["failed_at"] = torch.where((state["failed_at"] == 0) & failed, state["steps"], state["failed_at"])
        names = ("nonfinite_steps", "exploded", "cholesky_retries", "clamped")
        torch._foreach_add_([state[name] for name in names], [(~finite).long(), exploded.long(), level, clamped])

    def can_grow(self) -> bool:
        """Return whether the covariance has :meth:`Covariance.grow`."""
        return type(self._covariance).grow is not Covariance.grow and not self._sharding.divided

    def grow(self, before: Mapping[Tensor, torch.Size]) -> None:
        """Take in rows that parameters have gained at their ends, of outputs that no sample has had yet.

        All derivatives with respect to them were zero: their means and variances are those of the prior, with the
        process noise since, and they are uncorrelated with all others. The noise of a coordinate that was never
        observed starts as at the first step.

        Raises:
            ValueError: If the covariance cannot, the prior of an earlier release's checkpoint is not known, or several
                processes share the state; nothing is changed.
        """
        name, former, state, head = type(self).__name__, self._covariance.shapes, self.filter, self._head_columns()
        covariance, untouched = self._covariance.select(state), self._untouched and not int(state["steps"])
        if not self.can_grow():
            reason = "several processes share its state" if self._sharding.divided else "its covariance cannot grow"
            raise ValueError(f"{name}: cannot take new classes while it runs: {reason}; name all classes at the start")
        unknown = bool(state.get("prior_initialized", False)) and not bool(state["prior_factor"].any())
        if unknown:
            raise ValueError(f"{name}: an earlier release wrote this state and did not keep its prior; start a new one")
        self.grow_recent(before)
        self._prepare()
        if untouched:
            self.state[FILTER] = self._start()  # type: ignore[index]
            return
        self._untouched = False
        kept = kept_positions(former, self._covariance.shapes).to(self.device)
        q, steps = self._kwargs["process_noise"], (state["steps"] - state["nonfinite_steps"]).to(self.dtype)
        prior = self._prior_of_rows(state)
        for monitor in self._monitors:
            monitor.grow(state, kept, prior, head)
        state.update(self._covariance.grow(covariance, former, kept, prior + q * steps))
        if self._noise is not None and "R" in state:
            more = max(len(param) - shape[0] for param, shape in before.items())
            rows = max(map(len, before))
            if rows - more == 2 and self._kwargs["observation"] == "logits":  # two classes have other coordinates
                state.update(self._noise.start(rows, prior))
            else:
                state.update(self._noise.grow(state, prior, len(state["R"]) + more))

    def _prior_of_rows(self, state: State) -> Tensor:
        """Return the prior variance of every entry, (n,), in which the factor of its tensor is that of the start."""
        prior = torch.cat([initial_variance(group, self.dtype) for group in self.param_groups])
        if not bool(state.get("prior_initialized", False)):
            return prior
        sizes = torch.tensor([param.numel() for param in self._params], device=self.device)
        return prior * state["prior_factor"].repeat_interleave(sizes)

    def _move(self, delta: Tensor) -> None:
        parts = delta.split([param.numel() for param in self._params])
        steps = [part.view_as(param).to(param.dtype) for part, param in zip(parts, self._params, strict=True)]
        torch._foreach_add_(self._params, steps)

    @property
    def stats(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Diagnostics of the last step, computed when asked for; empty before the first."""
        if self._last is None:
            return {}
        figures = statistics(self.filter, self._variance(), self._last)
        for monitor in self._monitors:
            figures |= monitor.stats(self.filter, self._last.innovation)
        return figures

    def predictive(self) -> Tensor | None:
        """Return the posterior predictive probabilities of the last batch's classes before its update, (B, m).

        The scale of the covariance is weighted by the batches before. None before the first step, and where the
        coordinates observed are not those of the outputs.
        """
        last = self._last
        if last is None or last.scaled is None or last.log_weights is None:
            return None
        return tempered_predictive(last.scaled, last.log_weights)

    def tempering_log_weights(self) -> Tensor | None:
        """Return the log weights of the scales of the outputs' covariance, (K,); None where no label was seen."""
        log_weights = self.filter.get("tempering_log_weights")
        return log_weights if log_weights is not None and bool(log_weights.any()) else None

    def output_covariance(self, likelihood: Likelihood) -> Tensor:
        """Return the covariance C = JPJ' of each sample's outputs under the filter, (B, m, m), by m rows of J.

        Args:
            likelihood: Of model outputs with their graph attached, (B, m); it is used up.

        Raises:
            ValueError: If several processes share the state.
        """
        covariance, _ = self.output_uncertainty(likelihood)
        assert covariance is not None
        return covariance

    @torch.no_grad()
    def output_uncertainty(self, likelihood: Likelihood, whole: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """Return :meth:`output_covariance`, and with ``top_k`` the factor G of the predictive, (B, m, k), else None.

        GG' is the covariance of the k most probable classes and of the rest as one, as in training.

        Args:
            likelihood: Of model outputs with their graph attached, (B, m); it is used up.
            whole: Whether C is needed where there is a factor, which takes m rows of J for a sample instead of k.

        Raises:
            ValueError: If several processes share the state.
        """
        if self._sharding.divided:
            raise ValueError(f"{type(self).__name__}: the covariance of the outputs needs the whole state; one process")
        outputs, k = likelihood.outputs, self._rows.top_k
        B, m = outputs.shape
        directions = likelihood.contrasts(k) if k else None
        every = torch.eye(m, dtype=outputs.dtype, device=outputs.device).expand(B, m, m)
        chosen = every if whole or directions is None else directions
        gram, _ = self._covariance.project(self._covariance.select(self.filter), self._build(outputs, chosen))
        chosen = chosen.to(gram.dtype)
        covariance = output_covariance(gram, chosen) if whole or directions is None else None
        if directions is None:
            return covariance, None
        foreseen = directions.to(gram.dtype) @ chosen.mT  # in the coordinates of the rows
        return covariance, output_factor(gram, chosen, foreseen)

    def _scaled_predictive(self, observation: Observation, innovation: Innovation, HPH: Tensor) -> Tensor | None:
        """Return the predictive probabilities for each scale of the outputs' covariance, (K, B, m), if it is known."""
        if not (observation.likelihood.is_softmax and self._observes_outputs) or innovation.has_residual_probe:
            return None
        mean = observation.outputs.detach().to(innovation.cotangents.dtype)
        if innovation.foreseen is not None:
            return cubature_predictive(mean, output_factor(HPH, innovation.cotangents, innovation.foreseen))
        return scaled_predictive(mean, output_covariance(HPH, innovation.cotangents))

    def check_divergence(self) -> str | None:
        """Return what went wrong so far, naming the step, and the remedy; waits for the device."""
        return check_divergence(self.filter, self._kwargs["neumann"]) or super().check_divergence()

    def diagnose(self) -> str | None:
        """Return a warning that the filter is saturated or fails, where it does; waits for the device."""
        found = diagnose(self.filter, self.recent(), self._kwargs["observation"], self._options())
        return found or diagnose_mode(self._last) or super().diagnose()

    def _options(self) -> dict[str, Any]:
        """Return the options against saturation that this optimizer has, with their values."""
        known = {**self._kwargs, **self._kwargs["options"]}
        return {name: known.get(name) for name in REMEDIES if self._has(name)}

    def _has(self, option: str) -> bool:
        """Return whether this optimizer's own constructor has an option."""
        return option in inspect.signature(type(self).__init__).parameters


def _all_finite(tensors: list[Tensor]) -> Tensor:
    """Return whether no entry of the floating tensors is infinite or NaN, by one sum over each."""
    total = torch.stack([tensor.sum().double() for tensor in tensors if tensor.is_floating_point()]).sum()
    return total.isfinite()
