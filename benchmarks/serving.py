"""Predictions a second of ``filtune serve``, with and without learning, beside the bare model under the same server.

Three services run one after the other, in rounds, on loopback: the model of transformers behind one FastAPI endpoint;
``filtune serve`` that predicts; and ``filtune serve`` that predicts while a client sends labels as fast as they are
accepted. wrk asks each for predictions of the same texts.

    python -m benchmarks.serving --model MODEL_FOLDER --output serving.json
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filtune.experiments.terminal import terminal_table
from filtune.optimizers import Filtune
from rich.console import Console

from benchmarks.timing import describe_environment, write_record
from filtune import OnlineLearner

SERVICES = ("bare model", "filtune", "filtune, learning")
TEXTS = [
    "a bright and moving film",
    "dull from the first minute to the last",
    "the plot is thin but the actors are great",
]
SCRIPT = """\
local texts = {%s}
local i = 0
request = function()
  i = i + 1
  local body = '{"x": "' .. texts[i %% #texts + 1] .. ' ' .. i .. '"}'
  return wrk.format("POST", "/predict", {["Content-Type"] = "application/json"}, body)
end
"""


def bare_app(model: str) -> Any:
    """Return an application with the model of transformers alone."""
    import anyio
    from fastapi import FastAPI
    from pydantic import BaseModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2).eval()
    lock = threading.Lock()

    class Text(BaseModel):
        x: str

    @torch.no_grad()
    def answer(text: str) -> dict[str, Any]:
        with lock:  # a fast tokenizer refuses two threads
            inputs = tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
        p = classifier(**inputs).logits.softmax(1)[0].tolist()
        return {"prediction": p.index(max(p)), "probability": p}

    app = FastAPI()

    async def predict(text: Text) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(answer, text.x)

    predict.__annotations__["text"] = Text  # a class of this function, which FastAPI would look for in the module
    app.post("/predict")(predict)
    return app


def serve(name: str, options: argparse.Namespace, folder: str, port: int) -> None:
    """Run a service until it is killed."""
    torch.set_num_threads(options.threads)
    if name == "bare model":
        import uvicorn

        uvicorn.run(bare_app(options.model), port=port, log_level="warning", access_log=False, ws="none")
        return
    from filtune.live.serving.commands import main

    limits = ["--max_rate", "0", "--max_backlog", "64"]
    main(["--ckpt_path", f"{folder}/start.ckpt", "--state_dir", f"{folder}/{port}", "--port", str(port), *limits])


@contextmanager
def running(name: str, options: argparse.Namespace, folder: str, port: int) -> Iterator[int]:
    """Run a service in a process of its own; gives its process id."""
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(name, options, folder, port))
    process.start()
    try:
        until = time.monotonic() + 300
        while True:
            try:
                post(port, "/predict", {"x": TEXTS[0]})
                break
            except OSError:
                if not process.is_alive() or time.monotonic() > until:
                    raise
                time.sleep(0.5)
        yield process.pid or 0
    finally:
        process.kill()
        process.join()


def post(port: int, path: str, body: dict[str, Any]) -> int:
    """Send a request and return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    status = connection.getresponse().status
    connection.close()
    return status


class Teacher(threading.Thread):
    """Client that sends labels as fast as they are accepted.

    Attributes:
        accepted: Labels that were accepted.
        error: What ended it early; None where nothing did.
    """

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.accepted, self.ended = port, 0, threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        """Send labels until the end; those that must wait are sent again. An error ends it, and is kept."""
        try:
            while not self.ended.is_set():
                number = self.accepted
                body = {"x": f"{TEXTS[number % 3]} {number}", "y": ("neg", "pos")[number % 2]}
                status = post(self.port, "/learn", body)
                if status not in (200, 503):
                    raise RuntimeError(f"a label was answered by status {status}")
                self.accepted += status == 200
                if status == 503:
                    time.sleep(0.05)
        except Exception as error:  # of whatever kind; raised by the thread that measures
            self.error = error


def ask(port: int, script: str, options: argparse.Namespace, seconds: int) -> dict[str, float]:
    """Return requests a second, and percentiles of their time in seconds, by wrk; a refused request is an error."""
    clients = ["-t", "1", "-c", str(options.clients), "-d", f"{seconds}s", "--timeout", "20s", "--latency"]
    command = ["wrk", *clients, "-s", script, f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout or not re.search(r"[1-9]\d* requests", done.stdout):
        raise RuntimeError(f"some requests were refused, or had no answer: {done.stdout}")
    found = {"predictions_per_second": float(re.findall(r"Requests/sec:\s+([\d.]+)", done.stdout)[0])}
    for percent in ("50", "99"):
        value, unit = re.findall(rf"{percent}%\s+([\d.]+)(us|ms|s|m)\b", done.stdout)[0]
        found[f"p{percent}_seconds"] = float(value) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[unit]
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds and collect the medians.

    Raises:
        Exception: The error that ended the client of labels, of whatever kind.
    """
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in SERVICES}
    with tempfile.TemporaryDirectory() as folder:
        backbone = {"name": options.model, "adapter": "lora"}
        OnlineLearner("classification", backbone, Filtune, ["neg", "pos"]).save(f"{folder}/start.ckpt")
        script = Path(folder, "ask.lua")
        script.write_text(SCRIPT % ", ".join(f'"{text}"' for text in TEXTS))
        for number in range(options.rounds):
            for place, name in enumerate(SERVICES):
                port = options.port + 10 * number + place
                with running(name, options, folder, port):
                    teacher = Teacher(port) if name.endswith("learning") else None
                    if teacher:
                        teacher.start()
                    ask(port, str(script), options, 2)  # warm
                    before, begin = teacher.accepted if teacher else 0, time.monotonic()
                    figures = ask(port, str(script), options, options.seconds)
                    if teacher:
                        figures["labels_per_second"] = (teacher.accepted - before) / (time.monotonic() - begin)
                        teacher.ended.set()
                        teacher.join()
                        if teacher.error is not None:
                            raise teacher.error
                    rounds[name].append(figures)
    medians = {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for name, found in rounds.items()
    }
    environment = describe_environment(torch.device("cpu"), options.threads)
    given = {key: getattr(options, key) for key in ("clients", "rounds", "seconds", "threads")}
    return {"services": medians, "rounds": rounds, "environment": environment, **given}


def main() -> None:
    """Measure, print and write.

    Raises:
        SystemExit: If wrk is not installed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="hub id or folder of a text model")
    parser.add_argument("--clients", type=int, default=4, help="connections that ask at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for each operation")
    parser.add_argument("--port", type=int, default=18200, help="first port")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("benchmarks.serving: wrk is needed, of the package wrk of Debian")
    result = measure(options)
    columns = ("predictions / s", "p50, ms", "p99, ms", "labels / s")
    rows = [
        (name, f"{each['predictions_per_second']:.1f}", f"{1000 * each['p50_seconds']:.0f}",
         f"{1000 * each['p99_seconds']:.0f}", f"{each.get('labels_per_second', 0):.1f}")
        for name, each in result["services"].items()
    ]  # fmt: skip
    Console().print(terminal_table("Serving", ("service", *columns), rows))
    if options.output:
        write_record(result, options.output)


if __name__ == "__main__":
    main()
