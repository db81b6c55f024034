"""Whole steps as CUDA graphs: forward pass, Jacobian or gradient, and update are recorded once and replayed.

A graph repeats operations at fixed addresses: nothing that Python does in between is repeated. Three things follow.

* Steps of one *kind* share a graph: the same shapes of the batch, the same options, and the same of what the optimizer
  knows on the host (:meth:`OnlineOptimizer.step_kind`), such as how many rows of a low-rank covariance are in use.
* The state stays where the graphs read and write it. A tensor of the state that a step replaces by a new one is copied
  back into the old one, within the graph; so is what a step without a graph leaves behind.
* What a step does on the host is repeated beside the graph: counters advance by what they advanced by while it was
  recorded, diagnostics are set to the graph's, and the recent scores are given copies of its results.

A kind is run as it is at first, while waits of the host for the device are noted. Once a step of it has not waited, the
next one is recorded. Kinds that wait, such as those that invert factors, always run as they are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

from .base import Closure, OnlineOptimizer
from .fixed_steps import fixed_steps
from .likelihoods.base import Observation
from .step_state import HostState, Path, advance, holder_of, is_on_device

MOST_GRAPHS = 64
"""Most graphs of a run; each keeps a copy of its batch and its results."""

TRIALS = 3
"""Steps of a kind that may wait for the device before it counts as one that always does: the first ones prepare."""

MOST_CHANGES = 3
"""Times that the state may change its shapes, which makes all graphs useless, before none are recorded any more."""


class Recorder(Protocol):
    """A device that records operations."""

    def aside(self) -> AbstractContextManager[None]:
        """Return a context whose operations run where they are recorded, in order with those outside."""
        ...

    def watched(self) -> AbstractContextManager[list[str]]:
        """Return a context that lists why the host waited for the device within."""
        ...

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record the operations of a function, without running them, and return how to run them and its result.

        Raises:
            RuntimeError: If one of them cannot be recorded.
        """
        ...


class CudaRecorder:
    """A CUDA device, and the stream on which all steps run that are no replays.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Run on the stream; autograd remembers that on which a parameter was first used."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """List the lines at which torch notices a synchronisation."""
        waits: list[str] = []
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield waits
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        for warning in found:
            if "synchronizing CUDA" in str(warning.message):
                waits.append(f"{warning.filename.rpartition('/')[2]}:{warning.lineno}")
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record on the stream, into the memory that all graphs share: no two of them run at once."""
        graph = torch.cuda.CUDAGraph()
        # other threads, such as one that pins the memory of batches, go on meanwhile
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            result = work()
        return graph.replay, result


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaRecorder}
"""Devices that record, by type."""


class Graph(NamedTuple):
    """A recorded step.

    Attributes:
        run: Runs it.
        held: Where it reads its batch.
        observation: Its result.
        numbers: What it adds to the numbers on the host, by their paths in the state.
        attributes: Attributes of the optimizer that it sets.
        followed: Arguments of :meth:`OnlineOptimizer.follow`, beside the observation.
    """

    run: Callable[[], None]
    held: Any
    observation: Observation
    numbers: dict[Path, Any]
    attributes: dict[str, Any]
    followed: dict[str, Tensor | None] | None


class StepGraphs:
    """The steps of an optimizer, recorded and replayed.

    Args:
        optimizer: The optimizer; its ``step`` is replaced until :meth:`remove`.
        recorder: The device; by default that of the parameters.

    Raises:
        ValueError: If the device records nothing, or the optimizer cannot be recorded.

    Attributes:
        replays: Steps that were replayed.
    """

    def __init__(self, optimizer: OnlineOptimizer, recorder: Recorder | None = None) -> None:
        device = next(optimizer.trained()).device
        if recorder is None and device.type not in RECORDERS:
            raise ValueError(f"CUDA graphs need a CUDA device, and the parameters are on {device.type}")
        if reason := optimizer.unrecordable():
            raise ValueError(f"{type(optimizer).__name__} has no CUDA graphs: {reason}")
        self.optimizer, self.replays = optimizer, 0
        self.recorder = recorder or RECORDERS[device.type](device)
        self._graphs: dict[Hashable, Graph] = {}
        self._trials: dict[Hashable, int] = {}
        self._ready: set[Hashable] = set()
        self._pinned: dict[Path, Tensor] = {}
        self._addresses: list[int] = []
        self._changes, self._warned = 0, False
        self._given: Any = ()
        self._held: Any = ()
        self._observe: Callable[..., Observation] | None = None
        shadowed: Any = optimizer  # whose base, torch's own class, declares another step
        self._original: Callable[[Closure], Observation] = shadowed.step
        shadowed.step = self._step

    def remove(self) -> None:
        """Give the optimizer its own step back, and drop all graphs."""
        vars(self.optimizer).pop("step", None)
        self._forget()

    def take(
        self,
        observe: Callable[..., Observation],
        inputs: tuple[Any, ...],
        step: Callable[[Closure], Any] | None = None,
    ) -> Observation:
        """Take a step and return the observation made before it, without its graph where it was replayed.

        Args:
            observe: Returns the observation of inputs; it must do nothing else, for a replay does not call it.
            inputs: Nested tensors and values.
            step: Calls the optimizer's step, as a trainer does that counts steps; by default the optimizer itself.
        """
        self._observe, self._given = observe, inputs
        take: Callable[[Closure], Any] = step or vars(self.optimizer)["step"]
        return take(lambda: observe(*self._held))

    def _step(self, closure: Closure) -> Observation:
        """Take a step by a graph, record one, or run it as it is."""
        with fixed_steps(), self.optimizer.recordable():
            kind = self._kind()
            if not self._is_in_place():
                kind = None if self._changes > MOST_CHANGES else kind
            if kind in self._graphs:
                return self._replay(self._graphs[kind])
            if kind in self._ready and len(self._graphs) < MOST_GRAPHS:
                return self._record(kind, closure)
            return self._run(kind, closure)

    def _kind(self) -> Hashable:
        """Return what the operations of the next step depend on; None where it must run as it is."""
        own = self.optimizer.step_kind()
        if own is None:
            return None
        leaves = tree_leaves(self._given)
        shapes = [(leaf.shape, leaf.dtype, leaf.stride()) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        groups = ({k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups)
        return own, str(tree_structure(self._given)), tuple(shapes), repr([*groups])

    def _run(self, kind: Hashable, closure: Closure) -> Observation:
        """Run a step as it is, and note whether it waits."""
        self._held = self._given
        with self.recorder.aside(), self.recorder.watched() as waits:
            observation = self._original(closure)
        self._put_back()
        if kind is None or kind in self._ready:
            return observation
        trials = self._trials[kind] = self._trials.get(kind, 0) + 1
        if not waits:
            self._ready.add(kind)
        elif trials >= TRIALS and not self._graphs:
            self._warn(f"the step waits for the device at {waits[0]}")
        return observation

    def _record(self, kind: Hashable, closure: Closure) -> Observation:
        """Record a step, and replay it; where that fails, run it as it is."""
        optimizer, before = self.optimizer, HostState(self.optimizer)
        self._pinned |= {path: value for path, value in before.leaves.items() if is_on_device(value, optimizer)}
        self._addresses = [p.data_ptr() for p in optimizer.trained()]
        followed: list[dict[str, Tensor | None]] = []

        def follow(observation: Observation, finite: Tensor | None = None, **more: Tensor) -> None:
            followed.append({"finite": finite, **more})

        def work() -> Observation:
            observation = self._original(closure)
            if not self._put_back():
                raise RuntimeError("its state changes its shapes")
            return observation

        self._held = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, self._given)
        optimizer.follow = follow  # type: ignore[method-assign]
        try:
            torch.clear_autocast_cache()  # its copies of the weights were made outside of the graph
            run, observation = self.recorder.record(work)
        except RuntimeError as error:
            before.restore()
            self._ready.discard(kind)
            self._trials[kind] = TRIALS
            self._warn(str(error).splitlines()[0])
            return self._run(None, closure)
        finally:
            vars(optimizer).pop("follow", None)
            torch.clear_autocast_cache()
        numbers, attributes = before.numbers_since(), before.attributes_since()
        seen = observation.at(observation.outputs.detach())
        graph = Graph(run, self._held, seen, numbers, attributes, followed[-1] if followed else None)
        self._graphs[kind] = graph
        if len(self._graphs) == MOST_GRAPHS:
            self._warn(f"there are {MOST_GRAPHS} kinds of steps already", "further ones run without")
        return self._replay(graph, recorded=True)

    def _replay(self, graph: Graph, recorded: bool = False) -> Observation:
        """Replay a step, and do what it does on the host."""
        optimizer = self.optimizer
        if not recorded:
            for held, given in zip(tree_leaves(graph.held), tree_leaves(self._given), strict=True):
                if isinstance(held, Tensor):
                    held.copy_(given, non_blocking=True)
            for path, change in graph.numbers.items():
                advance(optimizer, path, change)
        vars(optimizer).update(graph.attributes)
        graph.run()
        self.replays += 1
        observation = _copied(graph.observation)
        if graph.followed is not None:
            kept = {name: value if value is None else value.clone() for name, value in graph.followed.items()}
            optimizer.follow(observation, **kept)  # type: ignore[arg-type]
        return observation

    def _is_in_place(self) -> bool:
        """Return whether graphs find the state where they left it, and drop them if they cannot."""
        moved = self._addresses and self._addresses != [p.data_ptr() for p in self.optimizer.trained()]
        if not moved and self._put_back():
            return True
        self._changes += 1
        self._forget()
        if self._changes > MOST_CHANGES:
            self._warn("its state changes its shapes")
        return False

    def _put_back(self) -> bool:
        """Copy tensors of the state that were replaced to where graphs read them; return whether they fit."""
        for path, pinned in self._pinned.items():
            holder = holder_of(self.optimizer, path)
            value = None if holder is None else holder.get(path[-1])
            if value is pinned:
                continue
            if not isinstance(value, Tensor) or (value.shape, value.dtype) != (pinned.shape, pinned.dtype):
                return False
            pinned.copy_(value)
            holder[path[-1]] = pinned  # type: ignore[index]
        return True

    def _forget(self) -> None:
        """Remove all graphs."""
        self._graphs, self._pinned, self._addresses = {}, {}, []

    def _warn(self, reason: str, consequence: str = "such steps run without") -> None:
        """Warn once why steps are not replayed."""
        if not self._warned:
            self._warned = True
            warnings.warn(f"cuda_graphs: {reason}; {consequence}", stacklevel=2)


def _copied(observation: Observation) -> Observation:
    """Return an observation that the next replay does not overwrite."""
    likelihood = copy.copy(observation.likelihood)
    for name, value in vars(observation.likelihood).items():
        setattr(likelihood, name, tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value))
    return Observation(likelihood, observation.target.clone())
