"""One run: ``filtune fit`` or a measurement in a process of its own, continued where a killed one stopped."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from filtune.lightning_modules.atomic import atomic_write
from filtune.lightning_modules.event_files import EVENTS
from filtune.lightning_modules.integrity import DamagedFile, read_json
from filtune.lightning_modules.runs import STREAM
from filtune.lightning_modules.signals import STOPPING

import filtune

from .classes import optimizer_label
from .composition import Config, data_options, lookup
from .keys import complete
from .records import FORMAT, Record, Store
from .run_folder import Scalars, read_run, steps_to_convergence

DIVERGED = 3
"""Exit status of ``filtune fit`` where the optimizer diverged."""

MEASURED, MAPS = "measured/", "maps.json"
"""What the tags of measured scalars begin with, and the name of the file with measured matrices in a run's folder."""

CURVES = ("online/accuracy", "online/pearson", "online/loss", "online/l1", "stats/grad_norm")
"""Scalars whose curves are kept, beside all of val/ and measured/."""

POINTS = 200
"""Most points of a kept curve."""


Started = Callable[[subprocess.Popen], object]
"""Is handed the process of a run as it starts."""


class RunError(RuntimeError):
    """A run that could not be finished; the message is one line."""


class RunDied(RunError):
    """The process of a run was stopped or killed, as by preemption, or its job was lost; the run can be resumed."""


@dataclass(frozen=True)
class Job:
    """A run to be made.

    Attributes:
        key: The run's key.
        config: The composed configuration.
        seed: Its seed.
        task: Name of a file of configs/task.
        backbone: Name of a file of configs/backbone.
        label: Its name in messages.
        folders: Folders of hub ids on this machine.
        stream: Fingerprint of the data that it is to learn from; None to learn from any.
        resume_changed: Whether to resume or keep it although data or settings have changed since it was begun.
    """

    key: str
    config: Config
    seed: int
    task: str
    backbone: str
    label: str
    folders: dict[str, str] = field(default_factory=dict)
    stream: dict[str, Any] | None = None
    resume_changed: bool = False

    @property
    def local_config(self) -> Config:
        """The configuration with local folders in place of hub ids."""
        return localise(self.config, self.folders)


def localise(config: Config, folders: dict[str, str]) -> Config:
    """Return the configuration with local folders in place of hub ids."""
    local = yaml.safe_load(yaml.safe_dump(config))
    places = [(options, "source") for options in data_options(local.get("data"))]
    for options, key in [*places, (lookup(local, "model.backbone") or {}, "name")]:
        if options.get(key) in folders:
            options[key] = str(Path(folders[options[key]]).expanduser())
    return local


def run(
    job: Job, store: Store, threads: int, started: Started = lambda process: None, device: str | None = None
) -> Record:
    """Make a run, or resume it, and write its record.

    Args:
        job: What to run.
        store: Where records and run folders are.
        threads: Threads of the process.
        started: Is handed the process.
        device: The only GPU that the process sees, as in ``CUDA_VISIBLE_DEVICES``; by default those of this process.

    Raises:
        RunError: If it fails for another reason than divergence, or it finished earlier on other data.
    """
    from filtune.lightning_modules.checkpoints import data_differences  # for which torch is imported

    folder = store.runs(job.key)
    reason, begun = None, time.monotonic()
    if _last(folder, "summary.json") is None:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "cell.yaml"
        with atomic_write(config) as file:
            yaml.safe_dump(job.local_config, file, sort_keys=False)
        environment = {"OMP_NUM_THREADS": str(threads)} | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})
        reason = _fit(job, folder, config, environment, started)
    try:
        record = _record(job, folder, reason, threads)
    except DamagedFile as error:
        raise RunError(f"{error}; delete {folder} to make the run again") from error
    record["times"]["process_seconds"] = time.monotonic() - begun  # with imports and data, by which runs are estimated
    changed = data_differences(record["data_fingerprint"], job.stream, "then")
    if changed and not job.resume_changed:
        raise RunError(f"it finished on other data, which differs in {'; '.join(changed)}; delete {folder}")
    store.write(record)
    return record


def find_curve(folder: Path, known: int) -> tuple[int, dict[str, Scalars]]:
    """Return the bytes of the event files of a run under way, and its curves; none where there are no more bytes.

    Args:
        folder: The run's folder in a store.
        known: Bytes when they were last read.

    Raises:
        DamagedFile: If a file cannot be read.
    """
    place = _last(folder, "config.yaml")
    size = sum(path.stat().st_size for path in folder.rglob(EVENTS))
    return size, read_run(place).curves if place and size != known else {}


def _last(folder: Path, name: str) -> Path | None:
    """Return the folder of the newest file of a name."""
    return max(folder.rglob(name), key=lambda path: path.stat().st_mtime).parent if any(folder.rglob(name)) else None


def _fit(job: Job, folder: Path, config: Path, own: dict[str, str], started: Started) -> str | None:
    """Run the command; none where it finished, else why the optimizer diverged."""
    command = [sys.executable, "-m", "filtune.experiments.worker", "measure" if "measurement" in job.config else "fit"]
    command += ["--config", str(config), f"--seed_everything={job.seed}", f"--run.root={folder}"]
    if "measurement" not in job.config:
        # a baseline of the configuration would be a second run in the folder
        command += ["--run.baselines=[]", "--trainer.enable_progress_bar=false"]
        if (job.config.get("trainer") or {}).get("val_check_interval") is None:
            command += ["--run.validations=1"]
        if any(folder.rglob("last.ckpt")):
            command += ["--ckpt_path=last"]
        if job.resume_changed:
            command += ["--run.resume_changed=true"]
    environment = {**worker_environment(), **own}
    if job.stream is not None:
        environment[STREAM] = json.dumps(job.stream)
    with open(folder / "output.txt", "ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
        started(process)
        status = process.wait()
    stopped = next((number for number in STOPPING if status == 128 + number), None)
    if stopped or (status == 0 and not any(folder.rglob("summary.json"))):
        by = f" ({stopped.name})" if stopped else ""
        raise RunDied(f"the run was stopped before its end{by}; the same command goes on with it")
    if status == 0:
        return None
    if status < 0:
        raise RunDied(f"its process was killed by {signal.Signals(-status).name}; see {folder / 'output.txt'}")
    said = _last_line(folder / "output.txt").removeprefix("filtune: error: ")
    if status == DIVERGED:
        return said
    raise RunError(said or f"the run ended with status {status}; see {folder / 'output.txt'}")


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").replace("\r", "\n").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _record(job: Job, folder: Path, reason: str | None, threads: int) -> dict[str, Any]:
    place = _last(folder, "summary.json") or _last(folder, "config.yaml")
    if place is None:
        raise RunError(f"the run left no folder under {folder}")
    found = read_run(place)
    results = found.results()
    kept = {tag: found.curves[tag] for tag in found.curves if tag in CURVES or tag.startswith(("val/", MEASURED))}
    curves = {tag: _thin(_finite(curve)) for tag, curve in kept.items()}
    loss = _finite(kept.get("online/loss", ([], [])))
    last = {tag.replace("/", "_"): values[-1] for tag, (_, values) in kept.items() if tag.startswith(MEASURED)}
    measured = {name: value if math.isfinite(value) else None for name, value in last.items()}
    return {
        **results,
        "format": FORMAT,
        "key": job.key,
        "status": "diverged" if reason else "finished",
        "reason": reason,
        "seed": job.seed,
        "task": job.task,
        "backbone": job.backbone,
        "optimizer": optimizer_label(job.config.get("optimizer") or job.config.get("measurement") or {}),
        "config": complete(job.config),
        "data_fingerprint": results["data_fingerprint"] or (job.stream if reason else None),
        "metrics": {**results["metrics"], **measured},
        "curves": curves,
        **({"maps": read_json(place / MAPS)} if (place / MAPS).is_file() else {}),
        "steps_to_convergence": None if reason else steps_to_convergence(*loss),
        "times": {**results["times"], "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds")},
        "environment": {**results["environment"], "threads": threads},
    }


def _finite(curve: Scalars) -> Scalars:
    """Return a curve without values that are not finite."""
    pairs = [(step, value) for step, value in zip(*curve, strict=True) if math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _thin(curve: Scalars) -> list[list[Any]]:
    """Return at most ``POINTS`` of a curve's points, evenly spaced, with the last; five digits each."""
    steps, values = curve
    stride = -(-len(steps) // POINTS) or 1
    chosen = sorted({*range(len(steps) - 1, -1, -stride)})
    return [[steps[i] for i in chosen], [float(f"{values[i]:.5g}") for i in chosen]]


def worker_environment() -> dict[str, str]:
    """Return the environment in which a worker imports the filtune that is running.

    In a clone that is not installed, its folder is put on ``PYTHONPATH``. A worker imports modules of the current
    folder where this process does, and nowhere else: the folder may hold a user's own ``experiments/``.

    In a job of a cluster it does not see what SLURM says of the job: Lightning would take it for a rank of several.
    """
    submitted = "SUBMITIT_EXECUTOR" in os.environ
    found = {name: value for name, value in os.environ.items() if not (submitted and name.startswith("SLURM_"))}
    source = Path(filtune.__file__).resolve().parents[1]
    if str(source) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(source), found.get("PYTHONPATH")]))
    if not any(Path(place or ".").resolve() == Path.cwd() for place in sys.path):
        found["PYTHONSAFEPATH"] = "1"
    return found
