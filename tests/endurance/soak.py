"""One optimizer over many steps on scikit-learn's digits: memory, step time, the covariance, and what it reports.

A small network sees one image at a time, in an order of its own in every epoch. For the last tenth of the steps the
labels are permuted. Every window of steps leaves a record; :mod:`tests.endurance.soak_report` says what must hold at
the end. Lightning is not needed: torch, numpy and scikit-learn are enough, and matplotlib for the plot. A run that was
stopped continues from its state file (``FILE.json.state``) when the same command is given again, with the same figures
as without the stop.

    python -m tests.endurance.soak --method filtune --steps 100000 --output filtune.json
    python -m tests.endurance.soak --plot filtune.json loko.json --output soak.png
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filtune.optimizers import EKF, RING, AdamW, Categorical, Filtune, LoKO, OnlineOptimizer, RKalman
from torch import Tensor, nn

from tests.endurance.soak_report import check_soak, plot_soaks, print_soak
from tests.endurance.soak_spectrum import spectrum

METHODS: dict[str, Callable[[list[nn.Parameter]], OnlineOptimizer]] = {
    "filtune": Filtune,
    "loko": LoKO,
    "lofi": EKF,
    "r-kalman": RKalman,
    "ring": RING,
    "adamw": AdamW,
}
"""Optimizers by name, with their defaults, which are float32; LoFi is the default of EKF, AdamW for comparison."""

CLASSES = 10
SHIFT = 3
"""After the change, class y is called (y + SHIFT) mod 10."""

CHANGE = 0.9
"""Share of the steps before the labels change."""


@dataclass
class SoakState:
    """State of a run from window to window; it is saved as it is.

    Attributes:
        step: Steps taken.
        seconds: Time spent so far.
        windows: One record per window.
        warnings: What the optimizer reported: the message, and the first and last step at which it did.
    """

    step: int = 0
    seconds: float = 0.0
    windows: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Learner:
    """The network and the optimizer that trains it."""

    model: nn.Module
    optimizer: OnlineOptimizer

    def save(self, path: Path, run: SoakState, key: dict[str, Any]) -> None:
        """Write the run to a state file, in one piece."""
        tree = {"key": key, "run": vars(run), "model": self.model.state_dict(), "random": torch.get_rng_state()}
        partial = path.with_name(f"{path.name}.partial")
        torch.save({**tree, "optimizer": self.optimizer.state_dict()}, partial)
        os.replace(partial, path)

    def load(self, path: Path, key: dict[str, Any]) -> SoakState:
        """Continue from a state file, if there is one.

        Raises:
            SystemExit: If it belongs to a run with other options.
        """
        if not path.exists():
            return SoakState()
        tree = torch.load(path, weights_only=True)
        if tree["key"] != key:
            sys.exit(
                f"{path}: it belongs to a run with other options ({tree['key']}); delete it, or choose another output"
            )
        self.model.load_state_dict(tree["model"])
        self.optimizer.load_state_dict(tree["optimizer"])
        torch.set_rng_state(tree["random"])
        return SoakState(**tree["run"])


def digits() -> tuple[Tensor, Tensor]:
    """Return the images, (1797, 64) in [0, 1], and the labels, (1797,)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target, dtype=torch.int64)


def build_learner(method: str, seed: int) -> Learner:
    """Return a network with one hidden layer, 3,610 parameters, and its optimizer."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, CLASSES))
    optimizer = METHODS[method](list(model.parameters()))
    return Learner(model, optimizer.attach(model))


def stream(samples: int, seed: int, start: int) -> Iterator[int]:
    """Yield the indices of the samples from a step on, in an order that depends on seed and epoch alone."""
    epoch, position = divmod(start, samples)
    while True:
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch)).tolist()
        yield from order[position:]
        epoch, position = epoch + 1, 0


def run_window(
    learner: Learner, data: tuple[Tensor, Tensor], indices: list[int], changed: list[bool]
) -> dict[str, Any]:
    """Take one step per index, and return the window's online scores and times."""
    images, labels = data
    right, losses, seconds, cpu = 0, 0.0, [], []
    for index, permuted in zip(indices, changed, strict=True):
        x = images[index : index + 1]
        y = (labels[index : index + 1] + SHIFT * permuted) % CLASSES
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        observation = learner.optimizer.step(lambda x=x, y=y: Categorical(learner.model(x)).observe(y))
        cpu.append(time.thread_time() - begin_cpu)
        seconds.append(time.perf_counter() - begin)
        outputs = observation.outputs.detach()
        right += int(outputs.argmax(1) == y)
        losses += float(nn.functional.cross_entropy(outputs.double(), y))
    return {
        "accuracy": 100 * right / len(indices),
        "nll": losses / len(indices),
        "median_seconds": statistics.median(seconds),
        "median_cpu_seconds": statistics.median(cpu),
        "memory_bytes": resident_bytes(),
    }


def resident_bytes() -> int:
    """Return the memory that the process holds at present; at its peak where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def report(optimizer: OnlineOptimizer, run: SoakState) -> dict[str, float]:
    """Record what the optimizer reports, and return its diagnostics."""
    for message in (optimizer.check_divergence(), optimizer.diagnose()):
        if message is None:
            continue
        kind = message.split("(")[0].split(":")[0].strip()
        known = next((warning for warning in run.warnings if warning["kind"] == kind), None)
        if known is None:
            run.warnings.append({"kind": kind, "message": message, "first_step": run.step, "last_step": run.step})
        else:
            known["last_step"] = run.step
    return {name: float(value) for name, value in optimizer.stats.items() if value.numel() == 1}


def soak(
    method: str, steps: int, output: Path, window: int = 1000, seed: int = 0, seconds: float = math.inf
) -> dict[str, Any]:
    """Run, or go on with, one soak; write its JSON after every window.

    Args:
        method: One of ``METHODS``.
        steps: Steps in all.
        output: The JSON; the state file stands beside it until the run is over.
        window: Steps of a window.
        seed: Of the network, the order of the samples, and all that is drawn.
        seconds: Stop after the window in which so much time has passed; the state file is kept.

    Returns:
        The result, with ``finished`` false where the time was up.
    """
    torch.set_num_threads(1)
    key = {"method": method, "steps": steps, "window": window, "seed": seed}
    data, learner = digits(), build_learner(method, seed)
    saved = output.with_name(f"{output.name}.state")
    output.parent.mkdir(parents=True, exist_ok=True)
    run = learner.load(saved, key)
    change, begin, before = int(CHANGE * steps), time.perf_counter(), run.seconds
    samples = stream(len(data[1]), seed, run.step)
    result = describe(key, change, run)
    while run.step < steps:
        places = range(run.step, min(run.step + window, steps))
        scores = run_window(learner, data, [next(samples) for _ in places], [place >= change for place in places])
        run.step = places.stop
        figures = report(learner.optimizer, run)
        run.windows.append({"step": run.step, **scores, **spectrum(learner.optimizer), "stats": figures})
        run.seconds = before + time.perf_counter() - begin
        result = describe(key, change, run)
        learner.save(saved, run, key)
        write_result(output, result)
        if run.seconds - before >= seconds:
            break
    if result["finished"]:
        write_result(output, result)
        saved.unlink(missing_ok=True)
    return result


def describe(key: dict[str, Any], change: int, run: SoakState) -> dict[str, Any]:
    """Return the run so far, with what must hold once it is over."""
    finished = run.step == key["steps"]
    result = {**key, "change_step": change, "finished": finished, **vars(run)}
    return {**result, "checks": check_soak(result) if finished else {}, "environment": environment()}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result in one piece; numbers that JSON does not have become null."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(_finite(result), indent=1) + "\n")
    os.replace(partial, path)


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _finite(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def environment() -> dict[str, Any]:
    """Return machine, versions and commit, without what needs Lightning."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "scikit-learn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "commit": answer.stdout.strip() or None,
    }


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="filtune")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--window", type=int, help="steps of a window (default: a hundredth of the steps)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many; the same command goes on")
    parser.add_argument("--plot", nargs="+", type=Path, metavar="FILE.json", help="draw these results, run nothing")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write; with --plot the image")
    options = parser.parse_args(args)
    if options.plot:
        plot_soaks([json.loads(path.read_text()) for path in options.plot], options.output)
        return 0
    window = options.window or max(options.steps // 100, 1)
    result = soak(options.method, options.steps, options.output, window, options.seed, options.seconds)
    if not result["finished"]:
        print(f"stopped at step {result['step']} of {result['steps']}; the same command continues from its state file")
        return 0
    print_soak(result)
    return 0 if all(check["passed"] for check in result["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
