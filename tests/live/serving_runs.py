"""A small learner of digits behind HTTP, for the tests of the service."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from filtune.datamodules import DigitsDataModule
from filtune.live.serving.access import Limits
from filtune.live.serving.app import create_app
from filtune.live.serving.service import LearnerService
from filtune.live.serving.state import open_state
from filtune.live.storage import content
from filtune.optimizers import LoKO
from PIL import Image
from starlette.testclient import TestClient

from filtune import OnlineLearner

HOST = "http://localhost:8000"
CLASSES = list(range(10))


def new_learner(
    optimizer: Any = LoKO, kind: Any = "classification", classes: Any = CLASSES, **options: Any
) -> OnlineLearner:
    backbone = {"name": "lenet_small", "pretrained": False}
    return OnlineLearner(kind, backbone, optimizer, classes, image_shape=(1, 8, 8), **options)


@cache
def digits(count: int = 60) -> tuple[list[str], list[int]]:
    """Digits as the base64 of PNG files, and their classes."""
    data = DigitsDataModule(max_samples=count)
    data.setup()
    xs, ys = [], []
    for batch in data.train_dataloader():
        pixels = batch["image"][0, 0]
        pixels = pixels if pixels.dtype == torch.uint8 else (pixels * 255).byte()
        file = BytesIO()
        Image.fromarray(pixels.numpy()).save(file, "png")
        xs.append(base64.b64encode(file.getvalue()).decode())
        ys.append(int(batch["label"][0]))
    return xs, ys


@contextmanager
def serving(folder: Path, token: str | None = None, limits: Limits | None = None, **options: Any) -> Iterator[Any]:
    """A client of a service in a folder with a checkpoint ``start.ckpt``; its ``service`` is the service."""
    service = LearnerService(open_state(folder / "start.ckpt", None), **options)
    with TestClient(create_app(service, token, limits), base_url=HOST, raise_server_exceptions=False) as client:
        client.service = service
        yield client


def learn(client: Any, places: range, **options: Any) -> list[str]:
    """Send digits and wait until they are learned; returns the outcomes."""
    xs, ys = digits()
    samples = [{"x": xs[i], "y": ys[i], "id": i} for i in places]
    answer = client.post("/learn_many?learned=true", json={"samples": samples}, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["outcomes"]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every value of nested dicts and lists by its path."""
    if isinstance(value, dict):
        return {key: each for k, v in value.items() for key, each in flat(v, f"{name}.{k}").items()}
    if isinstance(value, list | tuple):
        return {key: each for k, v in enumerate(value) for key, each in flat(v, f"{name}.{k}").items()}
    return {name: value}


def differences(first: OnlineLearner, second: OnlineLearner) -> list[str]:
    """Names of what differs between two learners by a bit."""
    one, two = flat(content(first)), flat(content(second))
    names = one.keys() ^ two.keys()
    for name in one.keys() & two.keys():
        a, b = one[name], two[name]
        if isinstance(a, torch.Tensor):
            equal = a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
        else:
            equal = repr(a) == repr(b)
        names |= set() if equal else {name}
    return sorted(names)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()
