"""Everything that can be found out on a CUDA device in eight minutes, in one JSON.

Every part runs in a process of its own, so that an error of the device ends that part alone; those that measure time
run alone, the others at once. The file is written after every part, and each part writes its own after every entry.

    python -m benchmarks.gpu --output gpu.json --seconds 480
    python -m benchmarks.gpu --smoke --output gpu_smoke.json --seconds 100
    python -m benchmarks.gpu --device cpu --quick --output gpu_cpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from benchmarks.gpu import parts

GRACE = 5.0
"""Seconds that a part may take beyond its time before it is ended."""

POLL = 2.0
"""Seconds between two looks at the parts."""


def part_names() -> list[str]:
    """Return the names of all parts."""
    return [module.name for module in iter_modules(parts.__path__)]


def run_part(name: str, options: argparse.Namespace) -> None:
    """Run a part in this process."""
    import torch

    from benchmarks.gpu.record import Record

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    record = Record(options.output, device, options.seconds, options.quick, options.smoke)
    record.attempt("run", getattr(import_module(f"benchmarks.gpu.parts.{name}"), f"run_{name}"), record)


def budgets(names: list[str], seconds: float) -> dict[str, float]:
    """Return the seconds of every part: those that run alone share the time, the others have a third of it in all."""
    alone = {name: seconds_of(name) for name in names if runs_alone(name)}
    shared = [name for name in names if name not in alone]
    together = seconds / 3 if alone and shared else seconds
    rest = seconds - together if shared else seconds
    total = sum(alone.values()) or 1.0
    return {**{name: rest * own / total for name, own in alone.items()}, **dict.fromkeys(shared, together)}


def _constant(name: str, constant: str) -> Any:
    """Return a constant of a part's module without importing torch: it is written as a literal on a line of its own."""
    source = (Path(parts.__path__[0]) / f"{name}.py").read_text()
    line = next(line for line in source.splitlines() if line.startswith(f"{constant} = "))
    return json.loads(line.partition(" = ")[2].lower())


def seconds_of(name: str) -> float:
    """Return the time that a part needs, in seconds."""
    return float(_constant(name, "SECONDS"))


def runs_alone(name: str) -> bool:
    """Return whether a part must not share the device."""
    return bool(_constant(name, "ALONE"))


def start_part(name: str, seconds: float, folder: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start a part in a process of its own, which writes NAME.json and NAME.log."""
    own = folder / f"{name}.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--output", str(own), "--device", options.device]
    command += ["--seconds", f"{seconds:.1f}", "--threads", str(options.threads)]
    command += [flag for flag, on in (("--quick", options.quick), ("--smoke", options.smoke)) if on]
    return subprocess.Popen(command, stdout=own.with_suffix(".log").open("wb"), stderr=subprocess.STDOUT)


def read_results(name: str, process: subprocess.Popen[bytes], folder: Path) -> Any:
    """Return what a part has written so far, and the end of its log where it ended early."""
    own = folder / f"{name}.json"
    found = json.loads(own.read_text()) if own.exists() else {}
    if process.returncode is not None and "run" not in found:
        log = own.with_suffix(".log").read_text(errors="replace")
        found["ended"] = {"status": process.returncode, "log": log[-3000:]}
    return found


def run_group(names: list[str], options: argparse.Namespace, times: dict[str, float], found: dict[str, Any]) -> None:
    """Run parts at once, and write what they have found every few seconds, until all have ended or must."""
    with tempfile.TemporaryDirectory() as name:
        folder, begun = Path(name), time.monotonic()
        running = {part: start_part(part, times[part], folder, options) for part in names}
        while running:
            time.sleep(POLL)
            for part, process in list(running.items()):
                if time.monotonic() > begun + times[part] + GRACE:
                    process.kill()
                    process.wait()
                found[part] = read_results(part, process, folder)
                if process.poll() is not None:
                    found[part] = read_results(part, process, folder)
                    del running[part]
                    print(f"{part}: {time.monotonic() - begun:.0f} s, {summarise_part(found[part])}"[:1500], flush=True)
            partial = options.output.with_suffix(".partial")
            partial.write_text(json.dumps(found, indent=1) + "\n")
            os.replace(partial, options.output)


def summarise_part(found: dict[str, Any]) -> str:
    """Return how many entries a part has, and which failed."""
    failed = {name: entry["error"][-1] for name, entry in found.items() if isinstance(entry, dict) and "error" in entry}
    return f"{len(found)} entries, {len(failed)} errors {json.dumps(failed)[:800] if failed else ''}"


def run_all(options: argparse.Namespace) -> None:
    """Run the parts and write their results by name."""
    names = options.only or [name for name in part_names() if not options.smoke or _constant(name, "SMOKE")]
    times = dict.fromkeys(names, options.seconds) if options.smoke else budgets(names, options.seconds)
    groups = [names] if options.smoke else [[n] for n in names if runs_alone(n)]
    groups += [] if options.smoke else [[n for n in names if not runs_alone(n)]]
    found: dict[str, Any] = {}
    for group in groups:
        run_group(group, options, times, found)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    parser.add_argument("--seconds", type=float, default=480.0, help="time for all parts")
    parser.add_argument("--only", nargs="+", choices=part_names(), metavar="PART", help=", ".join(part_names()))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--quick", "--tiny", action="store_true", help="every entry once, at a tiny size")
    parser.add_argument("--smoke", action="store_true", help="look for errors: all parts at once, short")
    parser.add_argument("--part", choices=part_names(), help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.part:
        run_part(options.part, options)
    else:
        run_all(options)


if __name__ == "__main__":
    main()
