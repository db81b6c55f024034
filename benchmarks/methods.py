"""Methods of a comparison of costs: the optimizers by name, torch's own AdamW, and two lower bounds for any filter.

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
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from filtune.optimizers import (
    EKF,
    NGD,
    RENG,
    RING,
    SAM,
    SGD,
    AdaGrad,
    AdamW,
    Categorical,
    Filtune,
    LoKO,
    Observation,
    OnlineOptimizer,
    RKalman,
    Sophia,
    TorchOptimizer,
)
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.jacobian import JacobianBuilder
from filtune.optimizers.step_graphs import StepGraphs
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.models import Case

Batch = tuple[Any, Tensor]
Make = Callable[..., OnlineOptimizer]

SKIP = 8
"""Steps of a period of RING and RENG."""


class Method(NamedTuple):
    """An optimizer and how it is run.

    Attributes:
        make: Builds it from parameters.
        period: Steps of a period, of which the first is a refresh and the others are lazy.
        attention: How attention is computed; None leaves the choice to torch.
        has_graph: Whether the whole step is one CUDA graph.
    """

    make: Make
    period: int = 1
    attention: SDPBackend | None = None
    has_graph: bool = False


OPTIMIZERS: dict[str, Method] = {
    "adamw": Method(AdamW),
    "adagrad": Method(AdaGrad),
    "sgd": Method(SGD),
    "soap": Method(partial(TorchOptimizer, name="pytorch_optimizer.SOAP", arguments={"lr": 1e-3})),
    "sam": Method(SAM),
    "sophia": Method(Sophia, 10),
    "filtune": Method(Filtune),
    "filtune-bfloat16": Method(partial(Filtune, state_dtype="bfloat16")),
    "filtune-top-1": Method(partial(Filtune, top_k=1)),
    "filtune-top-2": Method(partial(Filtune, top_k=2)),
    "filtune-top-3": Method(partial(Filtune, top_k=3)),
    "loko": Method(LoKO),
    "loko-logits": Method(partial(LoKO, observation="logits")),
    "loko-plain-attention": Method(LoKO, attention=SDPBackend.MATH),  # operations that can be vectorised over the rows
    "loko-loop": Method(partial(LoKO, vectorize=False)),
    "loko-graph": Method(LoKO, has_graph=True),
    "r-kalman": Method(RKalman),
    "full": Method(partial(EKF, covariance="full")),
    "tensor": Method(partial(EKF, covariance="block_per_tensor")),
    "neuron": Method(partial(EKF, covariance="block_per_neuron")),
    "low-rank": Method(partial(EKF, covariance="low_rank", rank=10)),
    "ngd": Method(NGD),
    "ring": Method(partial(RING, skip=SKIP), SKIP),
    "ring-eigen": Method(partial(RING, skip=SKIP, inverse_method="eigen"), SKIP),
    "ring-sampled": Method(partial(RING, skip=SKIP, fisher_type="mc"), SKIP),
    "reng": Method(partial(RENG, skip=SKIP), SKIP),
}


class TimedMethod:
    """A method that takes steps on its own copy of the model's trained parameters.

    Args:
        case: The model, on the device.
        device: Where it runs.
        autocast: Whether the model computes in bfloat16.
        shared: Whether to use the model itself instead of a copy of its trained parameters.

    Attributes:
        seconds: Time of each step, until the device has finished.
        host_seconds: Time until the host had issued it.
        period: Steps of a period.
        attention: How attention is computed; None leaves the choice to torch.
    """

    period = 1
    attention: SDPBackend | None = None

    def __init__(self, case: Case, device: torch.device, autocast: bool = False, shared: bool = False) -> None:
        frozen = {id(p): p for p in case.parameters() if not p.requires_grad}  # one copy will do for all
        self.case = case if shared else copy.deepcopy(case, frozen).eval()
        self.trained = [p for p in self.case.parameters() if p.requires_grad]
        self.device, self.autocast = device, autocast
        self.seconds, self.host_seconds = list[float](), list[float]()

    def outputs(self, inputs: Any) -> Tensor:
        """Return the model's outputs, (B, m)."""
        backend = sdpa_kernel(self.attention) if self.attention else nullcontext()
        with backend, torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.case(inputs)

    def step(self, batches: list[Batch]) -> None:
        """Take a step on every batch, and note the time of one."""
        start = self.now()
        for batch in batches:
            self.work(batch)
        host = time.perf_counter()
        self.seconds.append((self.now() - start) / len(batches))
        self.host_seconds.append((host - start) / len(batches))

    def work(self, batch: Batch) -> Any:
        """Do the work that is timed."""
        raise NotImplementedError

    def now(self) -> float:
        """Return the time, after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def measure_rest(self, stream: Iterator[Batch], steps: int) -> None:
        """Measure what is not the time of a step, after so many further steps at most."""

    def figures(self) -> dict[str, Any]:
        """Return median and quartiles of the time of a step."""
        found = {
            "median_seconds": statistics.median(self.seconds),
            "quartiles_seconds": statistics.quantiles(self.seconds, n=4)[::2],
        }
        host = {"host_seconds": statistics.median(self.host_seconds)} if self.device.type == "cuda" else {}
        return {**found, **host}


class OptimizerMethod(TimedMethod):
    """An optimizer as a method.

    Args:
        case: The model.
        device: Where it runs.
        method: The optimizer.
        autocast: Whether the model computes in bfloat16.
        shared: Whether to use the model itself, without watching its layers.
    """

    def __init__(
        self, case: Case, device: torch.device, method: Method, autocast: bool = False, shared: bool = False
    ) -> None:
        super().__init__(case, device, autocast, shared)
        torch.manual_seed(0)
        self.optimizer: Any = method.make(self.trained)
        if not shared:
            self.optimizer.attach(self.case)
        self.period, self.attention = method.period, method.attention
        self.peak, self._in_model, self._shares = 0, 0.0, list[float]()

    def work(self, batch: Batch) -> Any:
        """Take the optimizer's step."""
        return self.optimizer.step(lambda: self._observe(batch))

    def measure_rest(self, stream: Iterator[Batch], steps: int) -> None:
        """Measure the share of a filter's algebra, and the memory of a step."""
        if isinstance(self.optimizer, KalmanOptimizer):
            self._shares = [self._algebra(next(stream)) for _ in range(steps)]
        self.peak = self._peak(next(stream))

    def _algebra(self, batch: Batch) -> float:
        """Return the share of one step that a filter spends outside the model's forward and backward pass."""
        observe, build = self._observe, JacobianBuilder.__call__
        self._observe = self._timed(observe)  # type: ignore[method-assign]
        self._in_model, start = 0.0, self.now()
        with mock.patch.object(JacobianBuilder, "__call__", self._timed(build)):
            graph = self.work(batch)
        share = 1 - self._in_model / (self.now() - start)
        del graph  # freeing it is not algebra
        self._observe = observe  # type: ignore[method-assign]
        return share

    def _peak(self, batch: Batch) -> int:
        """Return the most memory that one step takes beyond what was held before it, in bytes."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            held = torch.cuda.memory_allocated(self.device)
            self.work(batch)
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - held
        with torch.profiler.profile(profile_memory=True) as profile:
            self.work(batch)
        total = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                total += event.nbytes()
                peak = max(peak, total)
        return peak

    def figures(self) -> dict[str, Any]:
        """Return time, memory, and the share of the filter's algebra."""
        share = {"algebra_share": statistics.median(self._shares)} if self._shares else {}
        return {**super().figures(), **share, "peak_step_bytes": self.peak, "state_bytes": self._state_bytes()}

    def _state_bytes(self) -> int:
        return self.optimizer.state_bytes()

    def _observe(self, batch: Batch) -> Observation:
        return Categorical(self.outputs(batch[0])).observe(batch[1])

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = self.now()
            result = function(*arguments)
            self._in_model += self.now() - start
            return result

        return timed


class TorchAdamW(OptimizerMethod):
    """AdamW as torch has it: forward, backward of the cross-entropy, step; the arguments are torch's."""

    def __init__(
        self, case: Case, device: torch.device, autocast: bool = False, shared: bool = False, **options: Any
    ) -> None:
        make: Any = partial(_unwatched_adamw, **options)
        super().__init__(case, device, Method(make), autocast, shared)

    def work(self, batch: Batch) -> None:
        """Take a step."""
        self.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(self.outputs(batch[0]).float(), batch[1]).backward()
        self.optimizer.step()

    def _state_bytes(self) -> int:
        held = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(value.numel() * value.element_size() for value in held)


def _unwatched_adamw(params: list[Tensor], **options: Any) -> torch.optim.AdamW:
    optimizer: Any = torch.optim.AdamW(params, lr=1e-4, weight_decay=1e-4, **options)
    optimizer.attach = lambda model: optimizer
    return optimizer


class Graphed(OptimizerMethod):
    """A method whose whole step is one CUDA graph: inputs are copied to where it reads them, and it is replayed.

    An optimizer of torch's own is recorded here, after four steps; ours are by
    :class:`~filtune.optimizers.step_graphs.StepGraphs`.

    Args:
        method: The method, not yet used.
    """

    def __init__(self, method: OptimizerMethod) -> None:
        vars(self).update(vars(method))
        self.method, self.graph = method, None
        is_ours = isinstance(method.optimizer, OnlineOptimizer)
        self.steps = StepGraphs(method.optimizer) if is_ours else None

    def work(self, batch: Batch) -> None:
        """Replay the step on a batch."""
        if self.steps is not None:
            self.steps.take(lambda *held: self.method._observe(held), batch)
            return
        if self.graph is None:
            self.graph = self._capture(batch)
        for held, new in zip(tensors_of(self.held), tensors_of(batch), strict=True):
            held.copy_(new)
        self.graph.replay()

    def measure_rest(self, stream: Iterator[Batch], steps: int) -> None:
        """Measure nothing, because inside a graph the algebra cannot be timed separately, and its memory is its own."""

    def figures(self) -> dict[str, Any]:
        """Return time and memory, and how many steps were replayed."""
        replays = {} if self.steps is None else {"replays": self.steps.replays}
        return {**super().figures(), **replays}

    def _capture(self, batch: Batch) -> Any:
        """Record a step."""
        self.held = map_tensors(batch[0], torch.clone), batch[1].clone()
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(4):
                self.method.work(self.held)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            self.method.work(self.held)
        return graph


class Floor(TimedMethod):
    """One forward pass and one vectorised backward pass of d rows.

    Args:
        case: The model.
        device: Where it runs.
        rows: d.
        autocast: Whether the model computes in bfloat16.
    """

    def __init__(self, case: Case, device: torch.device, rows: int, autocast: bool = False) -> None:
        super().__init__(case, device, autocast)
        self.rows = rows

    def work(self, batch: Batch) -> None:
        """Run the forward and the backward pass."""
        outputs = self.outputs(batch[0])
        cotangents = torch.randn(self.rows, *outputs.shape, device=self.device).to(outputs)

        def backward(row: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(outputs, self.trained, row, materialize_grads=True)

        if self.rows == 1:
            backward(cotangents[0])
        else:
            torch.func.vmap(backward)(cotangents)


class OrdinaryFloor(Floor):
    """One forward pass, and one ordinary backward pass of every sample d times."""

    def step(self, batches: list[Batch]) -> None:
        """Time both passes, without the forward pass of the repeated batch."""
        total = 0.0
        for batch in batches:
            start = self.now()
            self.outputs(batch[0])
            total += self.now() - start
            outputs = self.outputs(map_tensors(batch[0], lambda tensor: tensor.repeat_interleave(self.rows, 0)))
            cotangents = torch.randn_like(outputs)
            start = self.now()
            torch.autograd.grad(outputs, self.trained, cotangents, materialize_grads=True)
            total += self.now() - start
        self.seconds.append(total / len(batches))
        self.host_seconds.append(total / len(batches))


def map_tensors(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a model's inputs with every tensor changed."""
    return {name: change(tensor) for name, tensor in inputs.items()} if isinstance(inputs, dict) else change(inputs)


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch."""
    inputs, target = batch
    return [*(inputs.values() if isinstance(inputs, dict) else [inputs]), target]
