"""What takes part in a comparison of costs."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from filtune.optimizers import (
    EKF,
    SGD,
    AdaGrad,
    AdamW,
    Categorical,
    Filtune,
    LoKO,
    Observation,
    OnlineOptimizer,
    RKalman,
)
from filtune.optimizers.kalman.filter import KalmanOptimizer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.models import Case

Batch = tuple[Any, Tensor]

OPTIMIZERS: dict[str, Callable[[Any], OnlineOptimizer]] = {
    "adamw": AdamW,
    "adagrad": AdaGrad,
    "sgd": SGD,
    "filtune": Filtune,
    "filtune-likely": lambda params: Filtune(params, top_k=3),
    "loko": LoKO,
    "loko-logits": lambda params: LoKO(params, observation="logits"),
    "r-kalman": RKalman,
    "full": lambda params: EKF(params, covariance="full"),
    "tensor": lambda params: EKF(params, covariance="block_per_tensor"),
    "neuron": lambda params: EKF(params, covariance="block_per_neuron"),
    "low-rank": lambda params: EKF(params, covariance="low_rank", rank=10),
}


class Contestant:
    """Something that takes steps on its own copy of what is trained of the model.

    Args:
        case: The model, on the device.
        device: Where it runs.

    Attributes:
        attention: How attention is worked out, where it shall not be torch's choice.
    """

    attention: SDPBackend | None = None

    def __init__(self, case: Case, device: torch.device) -> None:
        frozen = {id(p): p for p in case.parameters() if not p.requires_grad}  # one copy will do for all
        self.case = copy.deepcopy(case, frozen).eval()
        self.trained = [p for p in self.case.parameters() if p.requires_grad]
        self.device = device
        self.seconds: list[float] = []

    def outputs(self, inputs: Any) -> Tensor:
        """The model's outputs, (B, m)."""
        with sdpa_kernel(self.attention) if self.attention else nullcontext():
            return self.case(inputs)

    def step(self, batch: Batch) -> None:
        """Take one timed step."""
        start = self.now()
        self.work(batch)
        self.seconds.append(self.now() - start)

    def work(self, batch: Batch) -> Any:
        """What is timed."""
        raise NotImplementedError

    def now(self) -> float:
        """The time, once the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def figures(self) -> dict[str, Any]:
        """Median and quartiles of the time of a step."""
        return {
            "median_seconds": statistics.median(self.seconds),
            "quartiles_seconds": statistics.quantiles(self.seconds, n=4)[::2],
        }


class Runner(Contestant):
    """An optimizer.

    Args:
        case: The model.
        device: Where it runs.
        make: Builds the optimizer from parameters.
    """

    def __init__(self, case: Case, device: torch.device, make: Callable[[Any], OnlineOptimizer]) -> None:
        super().__init__(case, device)
        torch.manual_seed(0)
        self.optimizer = make(self.trained).attach(self.case)
        self.peak, self._in_model, self._shares = 0, 0.0, list[float]()

    def work(self, batch: Batch) -> Observation:
        """Its step."""
        return self.optimizer.step(lambda: self._observe(batch))

    def measure_algebra(self, batch: Batch) -> None:
        """Share of one step that a filter spends outside the model's forward and backward pass."""
        if not isinstance(self.optimizer, KalmanOptimizer):
            return
        build, observe = self.optimizer._build, self._observe
        self.optimizer._build, self._observe = self._timed(build), self._timed(observe)  # type: ignore[assignment]
        self._in_model, start = 0.0, self.now()
        graph = self.work(batch)
        self._shares.append(1 - self._in_model / (self.now() - start))
        del graph  # taking it down is not algebra
        self.optimizer._build, self._observe = build, observe  # type: ignore[method-assign]

    def measure_memory(self, batch: Batch) -> None:
        """Most memory that one step takes beyond what was held before it, in bytes."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            held = torch.cuda.memory_allocated(self.device)
            self.work(batch)
            self.peak = torch.cuda.max_memory_allocated(self.device) - held
        else:
            with torch.profiler.profile(profile_memory=True) as profile:
                self.work(batch)
            self.peak = _peak_allocation(profile)

    def figures(self) -> dict[str, Any]:
        """Time, memory, and the share of the filter's algebra."""
        share = {"algebra_share": statistics.median(self._shares)} if self._shares else {}
        memory = {"peak_step_bytes": self.peak, "state_bytes": self.optimizer.state_bytes()}
        return {**super().figures(), **share, **memory}

    def _observe(self, batch: Batch) -> Observation:
        return Categorical(self.outputs(batch[0])).observe(batch[1])

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = self.now()
            result = function(*arguments)
            self._in_model += self.now() - start
            return result

        return timed


def each(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change every tensor of a model's inputs."""
    return {name: change(tensor) for name, tensor in inputs.items()} if isinstance(inputs, dict) else change(inputs)


def _peak_allocation(profile: torch.profiler.profile) -> int:
    """Highest running total of the allocations that the profiler saw."""
    total = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak
