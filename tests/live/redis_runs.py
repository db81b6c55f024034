"""A Redis server of its own for the tests of ``filtune learn``, and a stream of numbers that goes through it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from filtune.cli import main

CHILDREN: set[int] = set()
"""Copies of this process that have not ended."""

Fields = dict[str, str]


class RedisProcess:
    """A redis-server on a socket, whose append-only file keeps every entry that it has confirmed."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options, self.socket = folder, options, folder / "socket"
        self.start()

    def start(self) -> None:
        import redis

        command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "no", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = redis.Redis.from_url(self.url(""))
        assert waited(self._answers)

    def _answers(self) -> bool:
        import redis

        try:
            return bool(self.client.ping())
        except redis.exceptions.AuthenticationError:
            return True
        except redis.exceptions.ConnectionError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def url(self, stream: str, **options: str) -> str:
        return f"unix://{self.socket}?stream={stream}" + "".join(f"&{key}={value}" for key, value in options.items())


@contextmanager
def running_server(*options: str) -> Iterator[RedisProcess]:
    """A server in a folder of its own: the path of a socket has at most 107 characters."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    pytest.importorskip("redis", reason="the client of Redis is not installed (pip install 'filtune[redis]')")
    with tempfile.TemporaryDirectory(prefix="redis", dir="/tmp") as folder:
        server = RedisProcess(Path(folder), *options)
        try:
            yield server
        finally:
            for child in list(CHILDREN):
                kill_process(child)
            server.kill()


def waited(condition: Callable[[], bool], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def entries(count: int, labelled: float = 1.0, seed: int = 0) -> Iterator[Fields]:
    """Samples of two numbers; some have their label, some get it in a later entry, the rest has none."""
    draw, late = random.Random(seed), []
    for i in range(count):
        if late and draw.random() < 0.3:
            id, label = late.pop(draw.randrange(len(late)))
            yield {"id": id, "label": label}
            continue
        a, b = draw.gauss(0, 1), draw.gauss(0, 1)
        label, row = ["neg", "pos"][a > b], {"a": str(a), "b": str(b), "id": f"s{i}"}
        kind = draw.random()
        if kind < labelled:
            row["label"] = label
        elif kind < 2 * labelled and len(late) < 100:
            late.append((row["id"], label))
        yield row if draw.random() < 0.5 else {"json": json.dumps({k: number(v) for k, v in row.items()})}


def number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def feed(server: RedisProcess, key: str, found: Iterator[Fields]) -> None:
    pipe = server.client.pipeline(transaction=False)
    for i, fields in enumerate(found, 1):
        pipe.xadd(key, fields)
        if i % 1000 == 0:
            pipe.execute()
    pipe.execute()


def config(folder: Path, optimizer: str = "filtune.AdamW") -> Path:
    path = folder / "own.yaml"
    options = {"lr": 0.01} if optimizer == "filtune.AdamW" else {}
    content = {
        "model": {"backbone": {"name": "mlp", "pretrained": False}},
        "optimizer": {"class_path": optimizer, "init_args": options},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def learn(folder: Path, name: str, *options: str, interval: int = 5) -> None:
    """Run the command with a state of this name."""
    start = [
        "learn",
        "--config",
        str(config(folder)),
        "--classes",
        "neg",
        "pos",
        "--columns",
        "a",
        "b",
        "--max_pending",
        "500",
    ]
    main([*start, "--state", str(folder / f"{name}.ckpt"), "--save_interval", str(interval), *options])


def forked(action: Callable[[], Any], log: Path) -> int:
    """Run an action in a copy of this process; its id is returned, and its messages go to a file."""
    child = os.fork()
    if child:
        CHILDREN.add(child)
        return child
    status = 1
    try:
        with log.open("a", buffering=1) as file:
            sys.stdout = sys.stderr = file  # pytest has its own in their place
            action()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        os._exit(status)


def kill_process(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    end_of(child)


def end_of(child: int) -> int:
    """Wait for a copy of this process; return its exit status, negative where a signal ended it."""
    status = os.waitpid(child, 0)[1]
    CHILDREN.discard(child)
    return os.waitstatus_to_exitcode(status)


def state_of(path: Path) -> dict[str, Any]:
    """A state without the names of group, consumer and stream, by which alone two runs may differ."""
    state = torch.load(path, weights_only=True)
    for part in (state["stream"]["input"], state["stream"]["output"]):
        for name in ("group", "consumer", "stream"):
            if isinstance(part, dict):
                part.pop(name, None)
    return state


def answers(server: RedisProcess, key: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return server.client.xrange(key)
