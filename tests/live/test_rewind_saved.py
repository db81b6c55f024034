"""The state that a learner would rewind to is saved with it: what follows a load is what would have followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.live import core, storage
from filtune.optimizers import Filtune, LoKO

from filtune import OnlineLearner
from tests.live.learners import IMAGES, same

SMALL = {"name": "lenet_small", "pretrained": False}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "CHECK_INTERVAL", 3)
    monkeypatch.setattr(core, "KEEP_INTERVAL", 6)


def learn(one: OnlineLearner, begin: int, end: int, diverges: int) -> None:
    for i in range(begin, end):
        if i == diverges:
            next(iter(one.model.trained().values())).data.fill_(float("nan"))
        one.learn_one(IMAGES[i], i % 3 if one.labels.likelihood.has_classes else float(i % 5))


@pytest.mark.filterwarnings("ignore:step .* restored to those of step", "ignore:step .* the mode of the posterior")
@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("saved_at", [0, 4, 6, 11])
def test_a_loaded_learner_rewinds_to_the_same_state(tmp_path: Path, kind: str, saved_at: int) -> None:
    """Saving changes nothing either: one that was never saved goes on in the same way."""
    rule = Filtune if kind == "classification" else LoKO
    classes: Any = [0, 1, 2] if kind == "classification" else ()
    never, first = (
        OnlineLearner(kind, SMALL, rule, classes, image_shape=(1, 8, 8), on_divergence="rewind") for _ in range(2)
    )
    learn(first, 0, saved_at, -1)
    first.save(tmp_path / "a.ckpt")
    second = OnlineLearner.load(tmp_path / "a.ckpt")
    learn(never, 0, saved_at, -1)
    for each in (never, first, second):
        learn(each, saved_at, 20, diverges=saved_at + 1)
    assert [each.watch.rewinds for each in (never, first, second)] == [1] * 3
    assert all(torch.isfinite(param).all() for param in second.model.trained().values())
    assert same(first, second)
    assert same(first, never)


def test_a_file_without_that_state_begins_with_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of fit and of earlier releases are; and nothing is kept where the policy is another."""
    one = OnlineLearner("classification", SMALL, LoKO, [0, 1, 2], image_shape=(1, 8, 8), on_divergence="rewind")
    learn(one, 0, 4, -1)
    content = storage.content(one)
    del content["live"]["good"]
    monkeypatch.setattr(storage, "content", lambda learner: content)
    one.save(tmp_path / "a.ckpt")
    kept = OnlineLearner.load(tmp_path / "a.ckpt").watch.state()
    assert kept is not None
    assert kept[0] == 4
    monkeypatch.undo()
    other = OnlineLearner("classification", SMALL, LoKO, [0, 1, 2], image_shape=(1, 8, 8))
    assert storage.content(other)["live"]["good"] is None
