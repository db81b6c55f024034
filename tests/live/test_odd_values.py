"""Odd ids, labels, texts and images are refused in one line, and nothing is changed for them."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filtune.datamodules import Task
from filtune.live.labels import Labels, class_list
from filtune.live.pending import Pending, Waiting
from filtune.optimizers import AdamW, LoKO

from filtune import OnlineLearner

SMALL = {"name": "lenet_small", "pretrained": False}
IMAGES = list(torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


def learner(classes: Any = ("a", "b", "c"), kind: Any = "classification", **options: Any) -> OnlineLearner:
    return OnlineLearner(kind, SMALL, options.pop("optimizer", LoKO), classes, image_shape=(1, 8, 8), **options)


def refusal(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return str(caught.value)


@pytest.mark.parametrize("id", [[1], {}, True, 1.0, None, "\ud800", "", " ", 10**700, b"x", float("nan")], ids=ascii)
def test_an_id_is_checked_wherever_it_comes(id: Any) -> None:
    pending = Pending(3)
    pending.add(1, Waiting("x"))
    assert refusal(pending.add, id, Waiting("y")).startswith("id: ")
    assert refusal(pending.take, id).startswith("id: ")
    assert (len(pending), pending.unknown, pending.replaced) == (1, 0, 0)


def test_ids_of_every_kind_that_is_taken_are_read_back(tmp_path: Path) -> None:
    ids = [0, -1, 2**63, 2**1024 - 1, -(2**1024) + 1, " a", "é✓", "1"]
    one = learner()
    one.predict_many([IMAGES[0]] * len(ids), ids)
    one.save(tmp_path / "a.ckpt")
    two = OnlineLearner.load(tmp_path / "a.ckpt")
    assert all(id in two.pending for id in ids)


def test_a_wrong_label_leaves_the_sample_waiting() -> None:
    one = learner()
    one.predict_many(IMAGES[:2], ["p", "q"])
    for y in ("nope", ["a"], {"a": 1}, math.inf):
        assert refusal(one.feedback, "p", y).startswith("y: ")
    assert "id: a text or an integer is needed, got [1]" in refusal(one.feedback, [1], "a")
    assert one.pending.state()["waiting"][0][0] == "p"  # and in its place
    assert one.steps == 0
    assert one.feedback("p", "b")
    assert not one.feedback("p", "b")
    assert one.steps == 1


def test_a_sample_that_comes_again_with_its_label_waits_no_longer() -> None:
    one = learner()
    one.predict_one(IMAGES[0], id=1)
    assert refusal(one.learn_one, IMAGES[0], "nope", 1).startswith("y: ")
    assert 1 in one.pending
    one.learn_one(IMAGES[0], "a", id=1)
    assert not one.feedback(1, "a")
    assert (one.steps, len(one.pending), one.pending.replaced) == (1, 0, 1)


def test_ids_and_labels_are_as_many_as_samples() -> None:
    one = learner()
    assert refusal(one.predict_many, IMAGES[:3], [1, 2]) == "ids: one is needed for each sample, got 2 for 3"
    assert refusal(one.predict_many, IMAGES[:2], [1, [2]]).startswith("id: ")
    assert refusal(one.learn_many, IMAGES[:2], ["a"]) == "ys: one is needed for each sample, got 1 for 2"
    assert refusal(one.learn_many, IMAGES[:2], [None, "nope"]).startswith("y: ")
    assert (len(one.pending), one.steps, one.unlabelled) == (0, 0, 0)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 28), "float32"),
        np.zeros((28, 0), "uint8"),
        np.zeros((1, 0, 0), "float32"),
        torch.zeros(0, 28),
        [[]],
        [],
        [[{}]],
    ],
    ids=str,
)
def test_an_image_without_pixels(image: Any) -> None:
    assert refusal(learner().inputs.read, image).startswith("x: ")


@pytest.mark.parametrize("classes", ["open", ["a"]])
def test_uncertainty_before_there_is_a_choice(classes: Any) -> None:
    one = learner("open")
    if classes != "open":
        one.learn_one(IMAGES[0], "a")
    known = one.classes
    assert one.uncertainty(IMAGES[0]) == {"entropy": 0.0, "probability": dict.fromkeys(known, 1.0)}
    assert learner("open", optimizer=partial(AdamW, lr=0.01)).uncertainty(IMAGES[0]) == {"entropy": 0.0}
    for x, y in zip(IMAGES[:2], "ab", strict=True):
        one.learn_one(x, y)
    assert set(one.uncertainty(IMAGES[0])["probability"]) == {"a", "b"}


# classes


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (np.array([3, 4]), [3, 4]),
        (np.array(["x", "y"]), ["x", "y"]),
        (torch.tensor([3, 4]), [3, 4]),
        (range(2), [0, 1]),
        ((np.int64(3), "a"), [3, "a"]),
        (np.array([]), []),
        ("open", "open"),
        (None, None),
    ],
    ids=str,
)
def test_classes_in_every_form_of_a_list(classes: Any, expected: Any) -> None:
    found = class_list(classes)
    assert found == expected
    assert [type(each) for each in found or ()] == [type(each) for each in expected or ()]


@pytest.mark.parametrize(
    "classes",
    [{"a"}, {"a": 1}, 3, np.array(3), [["a"], "b"], [{"a": 1}, "b"], [None, "a"], ["a", "\ud800"],
     [math.nan, 1], [1, 10**700], np.zeros((2, 2))],
    ids=lambda value: ascii(value)[:20],
)  # fmt: skip
def test_classes_that_are_none(classes: Any) -> None:
    assert refusal(class_list, classes).startswith("classes: ")


def test_an_array_of_classes() -> None:
    one = learner(np.array([3, 4]))
    one.learn_one(IMAGES[0], np.int64(3))
    assert one.classes == [3, 4]


def test_labels_that_can_be_no_new_class() -> None:
    labels = Labels("classification", ["b", 10], takes_new=True)
    assert labels.new_among(["b", 10.0, "c", "B", "c"]) == ["c", "B"]
    for y in ("b ", " b", "\tb"):
        assert "differs from the class 'b' in blanks alone; write it so, or name both" in refusal(labels.new_among, [y])
    assert "differs from the class 'x y' in blanks" in refusal(labels.new_among, ["x y", "x  y"])
    assert labels.new_among(["x y", "xy"]) == ["x y", "xy"]
    for y, words in [
        (["b"], "one class is needed, not a list: ['b']"),
        (("b", "c"), "one class is needed, not a list"),
        ({"k": 1}, "one class is needed, not a dict"),
        ({"k"}, "one class is needed, not a list"),
        (math.inf, "inf is no class"),
        ("\ud800", "holds half a surrogate pair"),
        (10**700, "has more than 1024 bits"),
    ]:
        assert words in refusal(labels.new_among, [y])
    closed = Labels("classification", ["a", "b"])
    assert "one class is needed, not a list" in refusal(closed.encode, [["a"]])


def test_a_bad_label_beside_a_new_class_adds_none() -> None:
    one = learner("open")
    refusal(one.learn_many, IMAGES[:3], ["a", "b", ["c"]])
    assert (one.classes, one.steps) == ([], 0)


# numbers


@pytest.mark.parametrize(
    ("kind", "y"),
    [("count", 1e30), ("count", 10**25), ("count", 2e13), ("count", [1, 2]), ("regression", [1, 2]),
     ("regression", [[1.0]]), ("regression", {"a": 1}), ("regression", 1e39), ("regression", 10**400)],
    ids=lambda value: str(value)[:9],
)  # fmt: skip
def test_numbers_that_are_no_labels(kind: str, y: Any) -> None:
    labels = Labels(kind)
    assert refusal(labels.encode, [y]).startswith("y: ")


def test_the_largest_count_does_not_diverge() -> None:
    one = learner((), "count")
    for y in [1, 10**13, *[1] * 58]:  # up to the check for divergence
        one.learn_one(IMAGES[0], y)
    assert math.isfinite(one.predict_one(IMAGES[0]))


def test_a_number_without_a_finite_loss() -> None:
    """In running units only the difference of two numbers may overflow, without them the square."""
    one = learner((), "regression")
    for y in (1.0, 1e37, -1e30):
        one.learn_one(IMAGES[0], y)
    assert math.isfinite(one.predict_one(IMAGES[0]))
    task = Task("own", "regression", 1, (), "image", (1, 8, 8), ("pearson",), target_scaling=False)
    two = learner((), task)
    two.predict_one(IMAGES[0], id=1)
    words = "y: the loss of the label 1e+25 is not finite; give it in other units"
    for call in (
        partial(two.learn_one, IMAGES[0], 1e25),
        partial(two.learn_many, IMAGES[:2], [1, 1e25]),
        partial(two.feedback, 1, 1e25),
    ):
        assert refusal(call) == words
    assert (two.steps, len(two.pending)) == (0, 1)
    assert two.feedback(1, 1e15)
