"""Copies of a learner, and what changes it."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.lightning_modules import CheckpointError
from filtune.optimizers import AdamW, Filtune, LoKO
from hypothesis import given, settings
from hypothesis import strategies as st

from filtune import OnlineLearner
from tests.live.learners import IMAGES, learner, same

WAYS = {
    "save": lambda each, folder: (each.save(folder / "a.ckpt"), OnlineLearner.load(folder / "a.ckpt"))[1],
    "pickle": lambda each, folder: pickle.loads(pickle.dumps(each)),
    "deepcopy": lambda each, folder: copy.deepcopy(each),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", [LoKO, partial(Filtune, rank=5, buffer_size=4), partial(AdamW, lr=0.01)])
def test_a_copy_goes_on_bit_for_bit(tmp_path: Path, rule: Any, way: str) -> None:
    schedule = {"warmup": 15} if "lr" in getattr(rule, "keywords", {}) else {}
    first = learner(rule, "open", weight_averaging=4, schedule=schedule)
    for x, y in zip(IMAGES[:8], "abacbadc", strict=True):
        first.learn_one(x, y)
    first.predict_one(IMAGES[8], id="late")
    second = WAYS[way](first, tmp_path)
    assert same(first, second)
    for x, y in zip(IMAGES[9:14], "eabcd", strict=True):
        first.learn_one(x, y)
    assert not same(first, second)  # it learns on its own
    for x, y in zip(IMAGES[9:14], "eabcd", strict=True):
        second.learn_one(x, y)
    assert first.feedback("late", "a")
    assert second.feedback("late", "a")
    assert same(first, second)
    assert first.predict_proba_one(IMAGES[0]) == second.predict_proba_one(IMAGES[0])


def test_a_saved_learner_is_plain_tensors_and_values(tmp_path: Path) -> None:
    one = learner()
    one.learn_one(IMAGES[0], "a")
    one.save(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert content["live"]["classes"] == ["a", "b", "c"]
    (tmp_path / "a.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:-300])
    with pytest.raises(CheckpointError, match="is damaged or not a checkpoint of filtune"):
        OnlineLearner.load(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        OnlineLearner.load(tmp_path / "b.ckpt")


@settings(max_examples=10)
@given(st.lists(st.sampled_from("learn predict probability uncertainty metrics drift".split()), max_size=8))
def test_what_is_asked_in_between_changes_nothing(asked: list[str]) -> None:
    first, second = learner(partial(Filtune, rank=4, buffer_size=2)), learner(partial(Filtune, rank=4, buffer_size=2))
    questions = {
        "predict": lambda: second.predict_one(IMAGES[20]),
        "probability": lambda: second.predict_proba_many(IMAGES[20:22]),
        "uncertainty": lambda: second.uncertainty(IMAGES[21]),
        "metrics": lambda: second.metrics,
        "drift": lambda: second.drift,
    }
    for i, what in enumerate([*asked, "learn"]):
        if what == "learn":
            first.learn_one(IMAGES[i], "abc"[i % 3])
            second.learn_one(IMAGES[i], "abc"[i % 3])
        else:
            questions[what]()
    assert same(first, second)


def test_the_random_numbers_of_the_caller_are_left_alone() -> None:
    one = learner(Filtune)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one.learn_one(IMAGES[0], "a")
    one.predict_one(IMAGES[0])
    assert torch.equal(torch.rand(3), expected)


@torch.inference_mode()
def test_learning_within_inference_mode() -> None:
    first, second = learner(), learner()
    first.learn_one(IMAGES[0], "a")
    with torch.inference_mode(False):
        second.learn_one(IMAGES[0], "a")
    assert same(first, second)
