"""Time from the command to the first step, cost of the data, and cost of logging, in seconds of CPU.

The command is run in processes of its own, ``filtune fit`` with one step and no validation, and its time is theirs,
which other processes on the machine change little. The largest packages among its imports are measured by
``python -X importtime`` in a further one, with the parts of each import that are its own.

    python -m benchmarks.startup --source ../shared/data/nyu-mll/glue --model ../shared/models/minilm-l6-v2
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from filtune.datamodules.image_decoding import decode
from PIL import Image
from transformers import AutoTokenizer

from benchmarks.timing import describe_environment, write_record

TOP = 15
"""Packages that are listed, those that take longest."""


def command(source: str, model: str, root: str, steps: int, log_interval: int = 50) -> list[str]:
    """Return the arguments of a run of some steps on SST-2."""
    parts = ["trainer/cpu", "task/sst2", "backbone/minilm"]
    options = {
        "optimizer": "adamw",
        "data.source": source,
        "model.backbone.name": model,
        "run.root": root,
        "trainer.max_steps": steps,
        "trainer.limit_val_batches": 0,
        "trainer.log_every_n_steps": log_interval,
    }
    given = [text for part in parts for text in ("--config", part)]
    return ["-m", "filtune", "fit", *given, *(f"--{name}={value}" for name, value in options.items())]


def cpu_seconds(arguments: list[str]) -> tuple[float, str]:
    """Return the CPU time of a Python process, with what it wrote to standard error.

    Raises:
        SystemExit: If the process fails, with the end of what it wrote.
    """
    before = os.times()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {done.stderr[-500:]}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, done.stderr


def package_shares(report: str) -> dict[str, float]:
    """Return the share of all import time that each package's own modules take, the largest first.

    Args:
        report: What ``python -X importtime`` wrote.
    """
    own = Counter[str]()
    for micros, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", report, flags=re.MULTILINE):
        own[name.partition(".")[0]] += int(micros)
    return {name: micros / own.total() for name, micros in own.most_common(TOP)}


def process_milliseconds(work: Callable[[], Any], repeats: int = 200) -> float:
    """Return the median process time of a call."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return 1000 * statistics.median(seconds)


def data_costs(model: str) -> dict[str, float]:
    """Return milliseconds to tokenise a text of 24 words and to decode a photograph of 500 x 375 pixels for 224."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    text = "the film is a gripping and moving story of a family that has to leave its home behind in a hurry again"
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(256, (1, 3, 15, 20), generator=generator).float()
    pixels = torch.nn.functional.interpolate(coarse, (375, 500), mode="bicubic").clamp(0, 255).byte()[0]
    file = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90)
    return {
        "tokenize_ms": process_milliseconds(lambda: tokenizer([text], return_tensors="pt")),
        "decode_ms": process_milliseconds(lambda: decode(file.getvalue(), Path(), 224), 50),
    }


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="folder with SST-2 in the hub's layout, or its hub id")
    parser.add_argument("--model", required=True, help="folder with MiniLM in the hub's layout, or its hub id")
    parser.add_argument("--runs", type=int, default=3, help="runs of the command; the median is reported")
    parser.add_argument("--steps", type=int, default=500, help="steps of the runs that measure a step and logging")
    parser.add_argument("--output", type=Path, help="path of the JSON")
    options = parser.parse_args(args)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as root:
        first = command(options.source, options.model, root, 1)
        starts = [cpu_seconds(first)[0] for _ in range(options.runs)]
        shares = package_shares(cpu_seconds(["-X", "importtime", *first])[1])
        torch_alone = cpu_seconds(["-c", "import torch"])[0]
        rarely = cpu_seconds(command(options.source, options.model, root, options.steps, 10**6))[0]
        often = cpu_seconds(command(options.source, options.model, root, options.steps, 1))[0]
    start = statistics.median(starts)
    point = 1000 * (often - rarely) / options.steps
    record = {
        "first_step_cpu_seconds": start,
        "first_step_cpu_seconds_of_each_run": starts,
        "import_torch_cpu_seconds": torch_alone,
        "share_of_import_time": shares,
        "step_ms": 1000 * (rarely - start) / (options.steps - 1),
        "point_of_the_log_ms": point,
        "log_share_of_20_ms_at_50_steps": point / 50 / 20,
        **data_costs(options.model),
        "environment": describe_environment(torch.device("cpu"), 1),
    }
    print(json.dumps(record, indent=2))
    if options.output:
        write_record(record, options.output)


if __name__ == "__main__":
    main()
