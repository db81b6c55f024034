r"""LoKO: the low-rank Kalman optimizer, an extended Kalman filter with a diagonal covariance."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from optimizers.base import Closure, OnlineOptimizer
from optimizers.blocks import Gain
from optimizers.cholesky import robust_cholesky
from optimizers.jacobian import JacobianBuilder
from optimizers.kalman import NOISES, innovation_covariance, posterior_variance
from optimizers.likelihoods import OBSERVATIONS, Observation

FILTER = "filter"
"""Key of the filter's state. A string, because torch casts state keyed by a parameter to the parameter's type."""

SATURATED = 1e-10
"""Trace of the observation noise below which the filter takes its predictions for certain."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class LoKO(OnlineOptimizer):
    r"""Low-Rank Kalman Optimizer (LoKO, Algorithm 1).

    The parameters theta are the state of a filter with identity transition and covariance diag(p). A batch of B
    samples is observed jointly in d coordinates each: residual e (B*d,), Jacobian H (B*d, n), noise I_B (x) R.

    .. math::
        R &\leftarrow \beta R + (1-\beta)(e e^\top + H P H^\top)      & (12)\\
        S &= H (p \bullet H^\top) + R, \quad K = p \bullet H^\top S^{-1} & (11a)\\
        \theta &\leftarrow \theta + K e                              & (11b)\\
        p &\leftarrow p - \mathrm{diag}(K H)\, p                     & (11c)

    ``noise="ema-1"`` drops HPH' from the first line (eq. 7). There is no learning rate.

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: Initial variance of the state, or its upper bound; positive.
        p0_init: ``constant``, p = p0 (method 1), or ``uniform``, p ~ U(0, p0) from torch's global generator
            (method 2, the paper's choice).
        beta: Forgetting factor of the observation noise, in [0, 1).
        noise: ``ema-1`` (eq. 7) or ``ema-2`` (eq. 12, the paper's choice).
        observation: ``probabilities`` (the paper) or ``logits`` (ours); see :class:`Categorical`.
        r0: Initial observation noise, R = r0 I; positive.
        dtype: Floating type of p, R and the algebra, whatever the model's own.
        jacobian: ``batched``, or ``loop`` (slow: one backward pass a row).
        max_rows: Most Jacobian rows computed at once; lower it to save memory.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        p0: float = 0.2,
        p0_init: Literal["constant", "uniform"] = "uniform",
        beta: float = 0.95,
        noise: Literal["ema-1", "ema-2"] = "ema-2",
        observation: Literal["probabilities", "logits"] = "probabilities",
        r0: float = 1.0,
        dtype: Literal["float32", "float64"] = "float32",
        jacobian: Literal["batched", "loop"] = "batched",
        max_rows: int = 256,
    ) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"LoKO: beta must lie in [0, 1), got {beta}")
        if not 0 < r0 < float("inf"):
            raise ValueError(f"LoKO: r0 must be positive and finite, got {r0}")
        if max_rows < 1:
            raise ValueError(f"LoKO: max_rows must be at least 1, got {max_rows}")
        for name, value, known in [
            ("noise", noise, NOISES),
            ("observation", observation, OBSERVATIONS),
            ("dtype", dtype, DTYPES),
            ("jacobian", jacobian, ("batched", "loop")),
        ]:
            if value not in known:
                raise ValueError(f"LoKO: {name} must be one of {', '.join(known)}; got {value!r}")
        self.beta, self.r0, self.observation = beta, r0, observation
        self.dtype = DTYPES[dtype]
        self._noise = NOISES[noise]
        super().__init__(params, {"p0": p0, "p0_init": p0_init})
        self._params = list(self.trained())
        self._build = JacobianBuilder(self._params, self.dtype, jacobian, max_rows)
        device = self._params[0].device
        filter_state = {
            "p": torch.cat([_initial_variance(g, self.dtype) for g in self.param_groups]),
            "nonfinite": torch.zeros((), dtype=torch.int64, device=device),
            "escalations": torch.zeros((), dtype=torch.int64, device=device),
            "clamped": torch.zeros((), dtype=torch.int64, device=device),
        }
        self.state[FILTER] = filter_state  # type: ignore[index]

    @property
    def filter(self) -> dict[str, Tensor]:
        """The filter's state: ``p`` (n,), ``R`` (d, d) after the first step, and counters."""
        return self.state[FILTER]  # type: ignore[index]

    def attach(self, model: nn.Module) -> Self:
        """Watch the model's dense layers: those seen at one position never materialise their Jacobian."""
        self._build.attach(model)
        return self

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group before the first step is taken.

        Raises:
            ValueError: If its p0 is not positive, its p0_init unknown, a parameter frozen, or the filter exists
                already.
        """
        if FILTER in self.state:
            raise ValueError("LoKO: parameters cannot join a filter that has been created")
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if not group["p0"] > 0 or group["p0"] == float("inf"):
            raise ValueError(f"LoKO: p0 must be positive and finite, got {group['p0']}")
        if group["p0_init"] not in ("constant", "uniform"):
            raise ValueError(f"LoKO: p0_init must be constant or uniform, got {group['p0_init']!r}")
        if not all(param.requires_grad for param in group["params"]):
            raise ValueError("LoKO: params must all require grad; leave the frozen ones out")

    @torch.no_grad()
    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Observe, update theta and p, and return the observation made before the update."""
        with torch.enable_grad():
            observation = closure()
        with torch.autocast(observation.outputs.device.type, enabled=False):
            self._filter(observation)
        return observation

    def _filter(self, observation: Observation) -> None:
        """The equations of the class docstring, in the filter's own precision."""
        e, cotangents = observation.innovation(self.observation)
        e = e.to(self.dtype)
        H = self._build(observation.outputs, cotangents)
        state, p = self.filter, self.filter["p"]

        HPH = H.gram(p)
        R = self._noise(self._observation_noise(e), e, HPH, self.beta)
        factor = robust_cholesky(innovation_covariance(HPH, R))
        L_inverse = factor.inverse.to(self.dtype)
        Ke, KHp = H.update(p, Gain(L_inverse, L_inverse @ e.flatten()))
        posterior, clamped = posterior_variance(p, KHp)

        finite = factor.valid & Ke.isfinite().all() & posterior.isfinite().all()
        change = torch.where(finite, Ke, 0)
        state["p"] = torch.where(finite, posterior, p)
        state["R"] = torch.where(finite, R, self._observation_noise(e))
        state["nonfinite"] += ~finite
        state["escalations"] += factor.level
        state["clamped"] += torch.where(finite, clamped, 0)
        self._move(change)
        self.stats = self._statistics(e, change)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the filter.

        Raises:
            ValueError: If it was saved for a state of another size or floating type.
        """
        saved = state_dict["state"].get(FILTER, {}).get("p")
        expected = self.filter["p"].numel()
        if saved is None or saved.numel() != expected:
            size = "no filter" if saved is None else f"a filter over {saved.numel()} parameters"
            raise ValueError(f"LoKO: the checkpoint holds {size}, this model trains {expected}")
        if saved.dtype != self.dtype:
            raise ValueError(f"LoKO: the checkpoint holds a filter in {saved.dtype}, this one has dtype {self.dtype}")
        super().load_state_dict(state_dict)
        device = self._params[0].device
        own = {name: tensor.to(device, copy=True) for name, tensor in self.filter.items()}
        self.state[FILTER] = own  # type: ignore[index]

    def __getstate__(self) -> dict[str, Any]:
        """All but the watched layers: a copy wants to be attached to its own model."""
        own = {name: self.__dict__[name] for name in ("beta", "r0", "observation", "dtype", "_noise")}
        return {**super().__getstate__(), **own, "_build": (self._build.method, self._build.max_rows)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy; torch's ``load_state_dict`` comes this way too, without what the copy adds."""
        how = state.pop("_build", None)
        super().__setstate__(state)
        if how is not None:
            self._params = list(self.trained())
            self._build = JacobianBuilder(self._params, self.dtype, *how)

    def advice(self) -> str | None:
        """Say that the filter is saturated, where it is.

        On a stream of one label the residual, H and with them R fall to zero; a label that contradicts then moves
        nothing, whatever the precision. Observed logits take longer to get there, but without process noise they do.
        """
        R = self.filter.get("R")
        if R is None or float(R.trace()) >= SATURATED:
            return None
        slower = "--optimizer.observation logits gets there later; " if self.observation == "probabilities" else ""
        return (
            f"the filter is saturated (trace of the observation noise {float(R.trace()):.0e}): it takes its "
            f"predictions for certain, and a label that contradicts them moves little; {slower}a new run from these "
            "weights starts with a fresh covariance"
        )

    def variance(self) -> list[Tensor]:
        """The filter's variance of every parameter, shaped like it, in the order of the groups."""
        p = self.filter["p"].split([param.numel() for param in self._params])
        return [part.view_as(param) for part, param in zip(p, self._params, strict=True)]

    def _observation_noise(self, e: Tensor) -> Tensor:
        """R before this step, (d, d); r0 I on the first."""
        state, d = self.filter, e.shape[1]
        if "R" not in state:
            state["R"] = self.r0 * torch.eye(d, dtype=self.dtype, device=e.device)
        if len(state["R"]) != d:
            raise ValueError(f"LoKO: the filter observed {len(state['R'])} coordinates so far, now {d}")
        return state["R"]

    def _move(self, change: Tensor) -> None:
        parts = change.split([param.numel() for param in self._params])
        steps = [part.view_as(param).to(param.dtype) for part, param in zip(parts, self._params, strict=True)]
        torch._foreach_add_(self._params, steps)

    def _statistics(self, e: Tensor, change: Tensor) -> dict[str, Tensor]:
        """Figures of the step. ``gain_norm`` is the gain along the innovation, |Ke| / |e|."""
        state = self.filter
        innovation, update = e.norm(), change.norm()
        return {
            "innovation_norm": innovation,
            "update_norm": update,
            "gain_norm": update / innovation.clamp_min(torch.finfo(e.dtype).tiny),
            "noise_trace": state["R"].trace(),
            "p_min": state["p"].min(),
            "p_mean": state["p"].mean(),
            "escalations": state["escalations"].clone(),
            "clamped": state["clamped"].clone(),
            "nonfinite": state["nonfinite"].clone(),
        }


def _initial_variance(group: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """p0 of a group's parameters, flat: the constant p0 (method 1) or U(0, p0) (method 2), never zero."""
    n, device = sum(param.numel() for param in group["params"]), group["params"][0].device
    if group["p0_init"] == "constant":
        return torch.full((n,), group["p0"], dtype=dtype, device=device)
    uniform = 1 - torch.rand(n, dtype=dtype)
    return (group["p0"] * uniform).to(device)
