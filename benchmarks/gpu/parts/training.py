"""``filtune`` on the device, end to end: fit, kill and resume, validate, predict, export; synchronisations of a run.

Real texts are used where the environment variable FILTUNE_GPU_DATA names a folder that holds ``data-tiny`` and
``models``; otherwise the digits alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.gpu.record import Record

SECONDS = 100
ALONE = False
SMOKE = True

DATA = Path(os.environ.get("FILTUNE_GPU_DATA", "/nonexistent"))
OPTIMIZERS = ("loko", "filtune", "r_kalman", "lofi", "ekf_neuron", "ring", "reng", "ngd", "adamw", "sam", "sophia")


def run_training(record: Record) -> None:
    """Record one entry per command, several at once."""
    folder = Path(tempfile.mkdtemp(prefix="filtune-gpu-"))
    trainer = "trainer/gpu" if record.cuda else "trainer/cpu"
    jobs: dict[str, Any] = {
        "quickstart": lambda: fit_and_use(
            folder, "quickstart", record, ["--config", "quickstart", *accelerator(record)]
        ),
        "quickstart bf16": lambda: fit_and_use(
            folder,
            "bf16",
            record,
            ["--config", "quickstart", *accelerator(record), "--trainer.precision", "bf16-mixed", *short(60)],
        ),
        "resume": lambda: resume(folder, record),
    }
    if DATA.exists():
        names = OPTIMIZERS[:3] if record.quick else OPTIMIZERS
        for name in names:
            arguments = [*sst2(trainer), "--config", f"optimizer/{name}", *short(60)]
            jobs[f"sst2 {name}"] = lambda a=arguments, n=name: fit_and_use(folder, f"sst2-{n}", record, a)
        arguments = [*sst2(trainer), "--config", "optimizer/filtune", "--trainer.precision", "bf16-mixed", *short(60)]
        jobs["sst2 filtune bf16"] = lambda: fit_and_use(folder, "sst2-bf16", record, arguments)
        if record.cuda:
            jobs["sst2 4bit"] = lambda: fit_and_use(
                folder,
                "sst2-4bit",
                record,
                [*sst2(trainer), "--config", "optimizer/filtune", "--model.backbone.frozen", "4bit", *short(40)],
            )
            jobs["sst2 ddp"] = lambda: fit_and_use(
                folder,
                "sst2-ddp",
                record,
                [*sst2("trainer/ddp_gpu"), "--config", "optimizer/filtune", *short(40)],
            )
    with ThreadPoolExecutor(1 if not record.cuda else 5) as pool:
        waiting = [pool.submit(record.attempt, name, job) for name, job in jobs.items()]
        record.attempt("synchronisations", count_in_run, folder, record)
        for job in waiting:
            job.result()
    shutil.rmtree(folder, ignore_errors=True)


def accelerator(record: Record) -> list[str]:
    """Return the options that put a configuration for the CPU on the device."""
    return ["--trainer.accelerator", "gpu" if record.cuda else "cpu"]


def short(steps: int) -> list[str]:
    """Return the options of a short run."""
    return ["--trainer.max_steps", str(steps), "--trainer.log_every_n_steps", "20", "--run.baselines", "[]"]


def sst2(trainer: str) -> list[str]:
    """Return the options of SST-2 with MiniLM, from the folders that came along."""
    data, model = DATA / "data-tiny" / "nyu-mll" / "glue", DATA / "models" / "minilm-l6-v2"
    arguments = ["--config", trainer, "--config", "task/sst2", "--config", "backbone/minilm"]
    return [*arguments, "--data.source", str(data), "--model.backbone.name", str(model)]


def command(*arguments: str, timeout: float = 110.0) -> tuple[int, str]:
    """Run ``filtune`` and return its status and the end of its output."""
    process = subprocess.run(
        [sys.executable, "-m", "filtune", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return process.returncode, process.stdout.decode(errors="replace")[-1500:]


def fit_and_use(folder: Path, name: str, record: Record, arguments: list[str]) -> dict[str, Any]:
    """Train, then validate, predict and export from the checkpoint."""
    root = folder / name
    status, output = command("fit", *arguments, "--run.root", str(root), timeout=max(5.0, record.left()))
    found: dict[str, Any] = {"status": status}
    if status:
        return {**found, "output": output}
    summaries = sorted(root.rglob("summary.json"))
    kept = ("optimizer", "samples", "online_accuracy", "online_nll", "val", "seconds_per_step", "peak_memory_bytes")
    kept += ("seconds_per_step_wall", "finished")
    read = [json.loads(summary.read_text()) for summary in summaries]
    found["summaries"] = [{k: v for k, v in summary.items() if k in kept} for summary in read]
    checkpoint = str(next(root.rglob("last.ckpt")))
    if name in ("quickstart", "sst2-filtune", "sst2-4bit"):
        config = str(next(root.rglob("config.yaml")))
        found["validate"] = command("validate", "--config", config, "--ckpt_path", checkpoint)
        found["export"] = command("export", "--ckpt_path", checkpoint, "--to", str(root / "export"))
        if name.startswith("sst2"):
            found["merge"] = command("export", "--ckpt_path", checkpoint, "--to", str(root / "merged"), "--merge")
            found["predict"] = command("predict", "--ckpt_path", checkpoint, "--text", "a wonderful film")
    return found


def resume(folder: Path, record: Record) -> dict[str, Any]:
    """Kill a run in its middle, resume it, and compare it with one that was not interrupted."""
    options = ["--config", "quickstart", *accelerator(record), *short(600), "--optimizer", "Filtune"]
    whole, cut = folder / "whole", folder / "cut"
    options += ["--run.save_interval", "100"]
    status, output = command("fit", *options, "--run.root", str(whole), timeout=max(5.0, record.left()))
    if status:
        return {"status": status, "output": output}
    process = subprocess.Popen(
        [sys.executable, "-m", "filtune", "fit", *options, "--run.root", str(cut)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + max(5.0, record.left())
    while process.poll() is None and time.monotonic() < until and not list(cut.rglob("last.ckpt")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = list(cut.rglob("last.ckpt"))
    if not found:
        return {"error": "no checkpoint before the end"}
    import torch

    at = torch.load(found[0], map_location="cpu", weights_only=True)["global_step"]
    status, output = command("fit", *options, "--run.root", str(cut), "--ckpt_path", str(found[0]))
    if status:
        return {"status": status, "output": output}
    ends = []
    for root in (whole, cut):
        saved = [torch.load(path, map_location="cpu", weights_only=True) for path in root.rglob("last.ckpt")]
        ends.append(max(saved, key=lambda checkpoint: checkpoint["global_step"]))
    one, two = (end["state_dict"] for end in ends)
    unequal = (name for name in one if not torch.equal(one[name], two[name]))
    differing = {name: float((one[name].double() - two[name].double()).abs().max()) for name in unequal}
    return {"status": 0, "killed_at": at, "steps": ends[1]["global_step"], "differing": differing}


def count_in_run(folder: Path, record: Record) -> dict[str, Any]:
    """Count the synchronisations of whole training steps of a run in this process, between two logs."""
    import lightning.pytorch as pl
    from filtune.lightning_modules.online import OnlineModule

    from benchmarks.gpu.parts.syncs import counting
    from filtune.training import fit as run_fit

    found: dict[str, Any] = {}

    class Counting(pl.Callback):
        """Counts from one batch to the next."""

        def __init__(self, name: str) -> None:
            self.name, self.context, self.counts, self.lines = name, None, [], {}

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Close the last count and open the next."""
            self.close()
            if 25 <= batch_idx < 45:
                self.context = counting(record.cuda)
                self.seen = self.context.__enter__()

        def close(self) -> None:
            """Close the count that is open."""
            if self.context is not None:
                self.context.__exit__(None, None, None)
                self.counts.append(sum(self.seen.values()))
                for line, times in self.seen.items():
                    self.lines[line] = self.lines.get(line, 0) + times
                self.context = None

        def on_train_end(self, trainer: Any, module: Any) -> None:
            """Close the last count."""
            self.close()

    def train(name: str, arguments: list[str]) -> None:
        counter = Counting(name)
        start = OnlineModule.on_train_start

        def with_counter(module: OnlineModule) -> None:
            module.trainer.callbacks.append(counter)
            start(module)

        with mock.patch.object(OnlineModule, "on_train_start", with_counter):
            run_fit(arguments)
        lines = dict(sorted(counter.lines.items(), key=lambda item: -item[1])[:15])
        found[name] = {"counts": counter.counts, "lines": lines}
        record.put("synchronisations so far", found)

    trainer = "trainer/gpu" if record.cuda else "trainer/cpu"
    names = ("loko", "adamw") if record.quick else ("loko", "filtune", "adamw", "ring")
    rarely = ["--trainer.log_every_n_steps", "100"]
    for name in names:
        digits = ["--config", "quickstart", *accelerator(record), "--config", f"optimizer/{name}", *short(50)]
        train(f"digits {name}", [*digits, *rarely, "--run.root", str(folder / f"count-{name}")])
        if DATA.exists():
            text = [*sst2(trainer), "--config", f"optimizer/{name}", *short(50)]
            train(f"sst2 {name}", [*text, *rarely, "--run.root", str(folder / f"text-{name}")])
    return found
