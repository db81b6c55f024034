"""Methods of a comparison of costs: the optimizers, and two lower bounds for any filter.

The *floor* is what any exact rule that needs d rows of a Jacobian has to compute: one forward pass and one vectorised
backward pass of d rows over the trained parameters, whose result is discarded. In a batch its rows are shared by the
samples, so that gradients are summed over them: less than any filter needs. The *ordinary floor* does not use
vectorisation: one forward pass, and one ordinary backward pass of a batch in which every sample is repeated d times
(the forward pass of that batch is not counted).
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

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
    TorchOptimizer,
)
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.jacobian import JacobianBuilder
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.models import Case

Batch = tuple[Any, Tensor]

OPTIMIZERS: dict[str, Callable[[Any], OnlineOptimizer]] = {
    "adamw": AdamW,
    "adagrad": AdaGrad,
    "sgd": SGD,
    "soap": lambda params: TorchOptimizer(params, name="pytorch_optimizer.SOAP", arguments={"lr": 1e-3}),
    "filtune": Filtune,
    "filtune-top-k": lambda params: Filtune(params, top_k=3),
    "loko": LoKO,
    "loko-logits": lambda params: LoKO(params, observation="logits"),
    "r-kalman": RKalman,
    "full": lambda params: EKF(params, covariance="full"),
    "tensor": lambda params: EKF(params, covariance="block_per_tensor"),
    "neuron": lambda params: EKF(params, covariance="block_per_neuron"),
    "low-rank": lambda params: EKF(params, covariance="low_rank", rank=10),
}


class TimedMethod:
    """A method that takes steps on its own copy of the model's trained parameters.

    Args:
        case: The model, on the device.
        device: Where it runs.

    Attributes:
        attention: How attention is computed; None leaves the choice to torch.
    """

    attention: SDPBackend | None = None

    def __init__(self, case: Case, device: torch.device) -> None:
        frozen = {id(p): p for p in case.parameters() if not p.requires_grad}  # one copy will do for all
        self.case = copy.deepcopy(case, frozen).eval()
        self.trained = [p for p in self.case.parameters() if p.requires_grad]
        self.device = device
        self.seconds: list[float] = []

    def outputs(self, inputs: Any) -> Tensor:
        """Return the model's outputs, (B, m)."""
        with sdpa_kernel(self.attention) if self.attention else nullcontext():
            return self.case(inputs)

    def step(self, batch: Batch) -> None:
        """Take one step and time it."""
        start = self.now()
        self.work(batch)
        self.seconds.append(self.now() - start)

    def work(self, batch: Batch) -> Any:
        """Do the work that is timed."""
        raise NotImplementedError

    def now(self) -> float:
        """Return the time, after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def figures(self) -> dict[str, Any]:
        """Return the median and quartiles of the time of a step."""
        return {
            "median_seconds": statistics.median(self.seconds),
            "quartiles_seconds": statistics.quantiles(self.seconds, n=4)[::2],
        }


class OptimizerMethod(TimedMethod):
    """An optimizer as a method.

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
        """Take the optimizer's step."""
        return self.optimizer.step(lambda: self._observe(batch))

    def measure_algebra(self, batch: Batch) -> None:
        """Measure the share of one step that a filter spends outside the model's forward and backward pass."""
        if not isinstance(self.optimizer, KalmanOptimizer):
            return
        observe, build = self._observe, JacobianBuilder.__call__
        self._observe = self._timed(observe)  # type: ignore[method-assign]
        self._in_model, start = 0.0, self.now()
        with mock.patch.object(JacobianBuilder, "__call__", self._timed(build)):
            graph = self.work(batch)
        self._shares.append(1 - self._in_model / (self.now() - start))
        del graph  # freeing it is not algebra
        self._observe = observe  # type: ignore[method-assign]

    def measure_memory(self, batch: Batch) -> None:
        """Measure the most memory that one step takes beyond what was held before it, in bytes."""
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
        """Return time, memory, and the share of the filter's algebra."""
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


class Floor(TimedMethod):
    """One forward pass and one vectorised backward pass of d rows.

    Args:
        case: The model.
        device: Where it runs.
        rows: d.
    """

    def __init__(self, case: Case, device: torch.device, rows: int) -> None:
        super().__init__(case, device)
        self.rows = rows

    def work(self, batch: Batch) -> None:
        """Run the forward and the backward pass."""
        outputs = self.outputs(batch[0])
        cotangents = torch.randn(self.rows, *outputs.shape, device=self.device)

        def backward(row: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(outputs, self.trained, row, materialize_grads=True)

        if self.rows == 1:
            backward(cotangents[0])
        else:
            torch.func.vmap(backward)(cotangents)


class OrdinaryFloor(Floor):
    """One forward pass, and one ordinary backward pass of every sample d times."""

    def step(self, batch: Batch) -> None:
        """Time both passes, without the forward pass of the repeated batch."""
        start = self.now()
        self.outputs(batch[0])
        forward = self.now() - start
        outputs = self.outputs(map_tensors(batch[0], lambda tensor: tensor.repeat_interleave(self.rows, 0)))
        cotangents = torch.randn_like(outputs)
        start = self.now()
        torch.autograd.grad(outputs, self.trained, cotangents, materialize_grads=True)
        self.seconds.append(forward + self.now() - start)


def map_tensors(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a model's inputs with every tensor changed."""
    return {name: change(tensor) for name, tensor in inputs.items()} if isinstance(inputs, dict) else change(inputs)


def _peak_allocation(profile: torch.profiler.profile) -> int:
    """Return the highest running total of the allocations that the profiler saw."""
    total = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak
