"""Kill commands with SIGKILL at random moments, continue them, and compare with runs that were not interrupted.

``python -m tests.endurance.chaos --kills 200 --output chaos.json``: a trial starts a command, kills it one to six times
at moments drawn uniformly over the time that it takes, gives the same command again each time (``fit`` with
``--ckpt_path last``), lets the last one finish, and compares what is there with an uninterrupted command's. The moments
are a function of the seed and the trial. Completed trials are in the output: the same command continues after them,
while the code is the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from filtune.lightning_modules.atomic import atomic_write
from filtune.lightning_modules.callbacks.summary import commit, device_name, versions

from tests.endurance.chaos_outcomes import EXCLUDED, exported, fitted, predicted, recorded, written
from tests.endurance.chaos_setups import SETUPS, Setup, write_input

CONTEXT = multiprocessing.get_context("forkserver")
PATIENCE = 900
"""Seconds after which a command that does not end is a failure."""

OUTCOMES = {"fit": fitted, "records": recorded, "report": written, "export": exported, "predict": predicted}


@dataclass
class StartedCommand:
    """A command under way, in a group of processes of its own.

    Attributes:
        process: Its process.
        output: File of what it prints.
    """

    process: Any
    output: Path

    def wait(self, seconds: float) -> int | None:
        """Return its exit status; None where it has not ended after so many seconds."""
        if isinstance(self.process, subprocess.Popen):
            try:
                return self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None
        self.process.join(seconds)
        return self.process.exitcode

    def kill(self) -> None:
        """Kill its first process, as the system does where memory runs out; those it started are to end by it."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.wait(60)


def _serve(args: list[str], folder: str, output: str) -> None:
    """Run a command in a process that has been forked from one that has imported everything."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)  # of data loaders' workers, as in a process of its own
    torch.set_num_threads(1)
    sys.argv = ["filtune", *args]
    runpy.run_module("filtune", run_name="__main__")


def start_command(setup: Setup, args: list[str], folder: Path) -> StartedCommand:
    """Start a command in a folder; one that starts others by itself in a process of its own from the beginning."""
    output = folder / "output.txt"
    if setup.spawns:
        with open(output, "ab") as file:
            command = [sys.executable, "-m", "filtune", *args]
            return StartedCommand(
                subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, env=_environment()), output
            )
    process = CONTEXT.Process(target=_serve, args=(args, str(folder), str(output)))
    process.start()
    return StartedCommand(process, output)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def line_of(setup: Setup, folder: Path, begun: bool) -> list[str]:
    """Return the command: once a run has been begun, ``fit`` resumes."""
    resumed = begun and setup.outcome == "fit" and any(folder.glob("runs/*/*/version_*"))
    return [*setup.args, "--ckpt_path=last"] if resumed else list(setup.args)


def uninterrupted(setup: Setup, folder: Path, inputs: Path) -> tuple[dict[str, Any], float]:
    """Run a command to its end; return what it leaves, and the seconds it took.

    Raises:
        RuntimeError: If it fails.
    """
    took = folder.with_suffix(".seconds")
    if not took.is_file():  # else it was run before
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(setup, folder, inputs)
        before = time.monotonic()
        command = start_command(setup, list(setup.args), folder)
        status = command.wait(PATIENCE)
        if status != 0:
            raise RuntimeError(f"{setup.name}: status {status}\n{command.output.read_text()[-2000:]}")
        took.write_text(str(time.monotonic() - before))
    seconds = float(took.read_text())
    return OUTCOMES[setup.outcome](folder), seconds


def make_folder(setup: Setup, folder: Path, inputs: Path) -> None:
    """Make the folder of a command, with its inputs."""
    folder.mkdir(parents=True)
    for name in setup.inputs:
        write_input(name, inputs, start_command, PATIENCE)
        source = inputs / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)


def trial(setup: Setup, folder: Path, inputs: Path, whole: tuple[dict[str, Any], float], seed: str) -> dict[str, Any]:
    """Kill a command at random moments, let it finish, and compare.

    Args:
        setup: The command.
        folder: Where to run it, new.
        inputs: Folder of all inputs.
        whole: What the uninterrupted command left, and its seconds.
        seed: Seed of the moments.

    Returns:
        The kills, and what differs, None where nothing does.
    """
    rng = random.Random(seed)
    reference, seconds = whole
    make_folder(setup, folder, inputs)
    wanted, kills, status = rng.randint(*((1, 2) if setup.spawns else (3, 6))), [], None
    for attempt in range(wanted + 1):
        command = start_command(setup, line_of(setup, folder, attempt > 0), folder)
        moment = rng.uniform(0, seconds) if attempt < wanted else PATIENCE
        status = command.wait(moment)
        if status is not None:
            break
        command.kill()
        if attempt < wanted:
            kills.append(round(moment, 3))
    text = (folder / "output.txt").read_text(errors="replace")
    fault = None
    if status != 0:
        fault = f"status {status}: {text.strip().splitlines()[-1][:300] if text.strip() else ''}"
    else:  # what is printed is not compared: workers of a data loader may complain that their command was killed
        fault = first_difference(reference, OUTCOMES[setup.outcome](folder))
    return {"setup": setup.name, "kills": kills, "fault": fault}


def first_difference(a: Any, b: Any, place: str = "") -> str | None:
    """Return where two trees of tensors and plain values first differ, bit for bit; None where they do not."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        return None if same else place
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return f"{place}: {sorted(map(str, a.keys() ^ b.keys()))[:3]} on one side alone"
        pairs = [(key, a[key], b[key]) for key in a]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{place}: {len(a)} and {len(b)} entries"
        pairs = [(key, x, y) for key, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        same = a == b or (a != a and b != b)
        return None if same else f"{place}: {str(a)[:60]!r} and {str(b)[:60]!r}"
    return next((found for key, x, y in pairs if (found := first_difference(x, y, f"{place}/{key}"))), None)


def result(trials: list[dict[str, Any]], seconds: dict[str, float], seed: int) -> dict[str, Any]:
    """Return the content of the output."""
    tables = {}
    for name in dict.fromkeys(trial["setup"] for trial in trials):
        own = [trial for trial in trials if trial["setup"] == name]
        tables[name] = {
            "trials": len(own),
            "kills": sum(len(trial["kills"]) for trial in own),
            "identical": sum(trial["fault"] is None for trial in own),
            "uninterrupted_seconds": round(seconds[name], 2) if name in seconds else None,
        }
    environment = {"device": device_name(torch.device("cpu")), "threads": 1, "versions": versions(), "commit": commit()}
    return {
        "date": date.today().isoformat(),
        "seed": seed,
        "kills": sum(table["kills"] for table in tables.values()),
        "trials": len(trials),
        "identical": sum(trial["fault"] is None for trial in trials),
        "excluded_from_the_comparison": EXCLUDED,
        "environment": environment,
        "setups": tables,
        "records": trials,
    }


def schedule(chosen: list[Setup]) -> list[Setup]:
    """Return the order of the trials, which repeats: a setup that starts processes takes long, and comes less often."""
    quick = [setup for setup in chosen if not setup.spawns]
    return 3 * quick + [setup for setup in chosen if setup.spawns]


def run_trials(
    kills: int, output: Path | None, seed: int, names: list[str], seconds: float, root: Path
) -> dict[str, Any]:
    """Run trials until so many kills have struck, or so many seconds have passed; return the result.

    Args:
        kills: Kills, together with those in the output.
        output: The JSON file; None to keep nothing.
        seed: Seed of the moments.
        names: The setups, by name; all by default.
        seconds: Most seconds.
        root: Folder of inputs, uninterrupted commands, and trials that differed; what it has is used again.
    """
    chosen = schedule([setup for setup in SETUPS if not names or setup.name in names])
    earlier = json.loads(output.read_text()) if output is not None and output.is_file() else {}
    same = earlier.get("seed") == seed and earlier["environment"]["commit"] == commit()
    trials = earlier["records"] if same else []
    known: dict[str, tuple[dict[str, Any], float]] = {}
    before, found = time.monotonic(), result(trials, {}, seed)
    CONTEXT.set_forkserver_preload(["filtune.training", "filtune.exports.predict", "torch._dynamo"])
    for number in range(len(trials), 10 * kills + len(trials) + 1):
        if found["kills"] >= kills or time.monotonic() - before > seconds:
            break
        setup = chosen[number % len(chosen)]
        if setup.name not in known:
            known[setup.name] = uninterrupted(setup, root / f"{setup.name}.whole", root / "inputs")
        folder = root / f"trial{number}"
        shutil.rmtree(folder, ignore_errors=True)  # of a series that was stopped
        trials.append(trial(setup, folder, root / "inputs", known[setup.name], f"{seed} {number}"))
        if trials[-1]["fault"] is None:
            shutil.rmtree(folder, ignore_errors=True)
        found = result(trials, {name: whole[1] for name, whole in known.items()}, seed)
        if output is not None:
            with atomic_write(output) as file:
                file.write(json.dumps(found, indent=1) + "\n")
        print_trial(found, trials[-1], time.monotonic() - before)
    return found


def print_trial(found: dict[str, Any], last: dict[str, Any], seconds: float) -> None:
    """Print one line about the last trial."""
    print(
        f"{seconds:6.0f} s  {found['kills']:4} kills, {found['identical']} of {found['trials']} trials identical  "
        f"{last['setup']}: {len(last['kills'])} kills, {last['fault'] or 'identical'}",
        flush=True,
    )


def main() -> None:
    """Run the trials; status 1 where a trial differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    parser.add_argument("--setups", nargs="+", default=[], choices=[setup.name for setup in SETUPS], help="only these")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many seconds")
    parser.add_argument("--output", type=Path, help="JSON file, continued where it is there already")
    parser.add_argument("--folder", type=Path, help="where to work, kept (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos.") as temporary:
        root = (options.folder or Path(temporary)).resolve() / (commit() or "unknown")  # another release may differ
        found = run_trials(options.kills, options.output, options.seed, options.setups, options.seconds, root)
    sys.exit(0 if found["identical"] == found["trials"] else 1)


if __name__ == "__main__":
    main()
