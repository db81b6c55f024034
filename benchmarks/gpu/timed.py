"""Steps that are timed: eager, in bfloat16, compiled, and as one CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from filtune.optimizers import Categorical, Observation, OnlineOptimizer
from torch import Tensor

from benchmarks.methods import Batch, OptimizerMethod, TimedMethod, map_tensors
from benchmarks.models import Case


class Timed(TimedMethod):
    """A method with the host's own time beside that of the step, and a type for the model.

    Args:
        case: The model, on the device.
        device: Where it runs.
        autocast: Whether the model computes in bfloat16.
        shared: Whether to use the model itself instead of a copy of its trained parameters.
    """

    def __init__(self, case: Case, device: torch.device, autocast: bool, shared: bool = False) -> None:
        if shared:
            self.case, self.device, self.seconds = case, device, []
            self.trained = [p for p in case.parameters() if p.requires_grad]
        else:
            super().__init__(case, device)
        self.autocast, self.host, self.peak, self.state = autocast, list[float](), 0, 0

    def outputs(self, inputs: Any) -> Tensor:
        """Return the model's outputs, (B, m)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return super().outputs(inputs)

    def block(self, batches: list[Batch]) -> None:
        """Take several steps; note the time of one on the host, and until the device is done."""
        start = self.now()
        for batch in batches:
            self.work(batch)
        host = time.perf_counter()
        self.seconds.append((self.now() - start) / len(batches))
        self.host.append((host - start) / len(batches))

    def measure_memory(self, batch: Batch) -> None:
        """Measure the most memory that one step takes beyond what was held before it, in bytes."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats(self.device)
            held = torch.cuda.memory_allocated(self.device)
            self.work(batch)
            torch.cuda.synchronize()
            self.peak = torch.cuda.max_memory_allocated(self.device) - held


class TorchAdamW(Timed):
    """AdamW as torch has it: forward, backward of the cross-entropy, step.

    Args:
        case: The model.
        device: Where it runs.
        autocast: Whether the model computes in bfloat16.
        shared: Whether to use the model itself.
        options: Of ``torch.optim.AdamW``.
    """

    def __init__(self, case: Case, device: torch.device, autocast: bool, shared: bool = False, **options: Any) -> None:
        super().__init__(case, device, autocast, shared)
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, weight_decay=1e-4, **options)

    def work(self, batch: Batch) -> None:
        """Take a step."""
        self.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(self.outputs(batch[0]).float(), batch[1]).backward()
        self.optimizer.step()


class OneBackward(Timed):
    """The floor: one forward pass, and one ordinary backward pass; nothing is updated."""

    def work(self, batch: Batch) -> None:
        """Run both passes."""
        outputs = self.outputs(batch[0])
        torch.autograd.grad(outputs, self.trained, torch.ones_like(outputs), materialize_grads=True)


class Rule(Timed):
    """One of the project's optimizers.

    Args:
        case: The model.
        device: Where it runs.
        autocast: Whether the model computes in bfloat16.
        make: Builds the optimizer.
        shared: Whether to use the model itself, without watching its layers.
    """

    def __init__(
        self,
        case: Case,
        device: torch.device,
        autocast: bool,
        make: Callable[[Any], OnlineOptimizer],
        shared: bool = False,
    ) -> None:
        super().__init__(case, device, autocast, shared)
        torch.manual_seed(0)
        self.optimizer = make(self.trained)
        if not shared:
            self.optimizer.attach(self.case)

    def work(self, batch: Batch) -> Observation:
        """Take a step."""
        return self.optimizer.step(lambda: Categorical(self.outputs(batch[0])).observe(batch[1]))

    def measure_memory(self, batch: Batch) -> None:
        """Measure a step's memory, and the size of the state."""
        super().measure_memory(batch)
        self.state = self.optimizer.state_bytes()


class Graphed:
    """A method whose whole step is one CUDA graph: inputs are copied to where it reads them, and it is replayed.

    The optimizer replaces tensors of its state by new ones; in the graph they are copied back to where the next replay
    reads them.

    Args:
        method: The method; its optimizer must not read from the device.
    """

    def __init__(self, method: Any) -> None:
        self.method, self.graph = method, None
        self.seconds, self.host, self.peak, self.state = list[float](), list[float](), 0, 0
        self.device = method.device

    def capture(self, batch: Batch) -> None:
        """Record a step."""
        self.held = map_tensors(batch[0], torch.clone), batch[1].clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(4):
                self.method.work(self.held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            before = self._state()
            self.method.work(self.held)
            self._keep(before)
        self.graph = graph

    def work(self, batch: Batch) -> None:
        """Replay the step on a batch."""
        assert self.graph is not None
        for held, new in zip(_tensors(self.held), _tensors(batch), strict=True):
            held.copy_(new)
        self.graph.replay()

    def _state(self) -> dict[str, Tensor]:
        state = getattr(self.method.optimizer, "filter", None)
        return dict(state) if state is not None else {}

    def _keep(self, before: dict[str, Tensor]) -> None:
        """Copy the new state to the tensors of the old, which the graph reads."""
        if not before:
            return
        state = self.method.optimizer.filter
        for name, old in before.items():
            if state[name] is not old:
                old.copy_(state[name])
                state[name] = old

    block = Timed.block
    now = TimedMethod.now
    figures = TimedMethod.figures

    def measure_memory(self, batch: Batch) -> None:
        """Measure nothing, because a graph's memory is its own."""


def _tensors(batch: Batch) -> list[Tensor]:
    inputs, target = batch
    return [*(inputs.values() if isinstance(inputs, dict) else [inputs]), target]


__all__ = ["Graphed", "OneBackward", "OptimizerMethod", "Rule", "Timed", "TorchAdamW"]
