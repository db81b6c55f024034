"""Forms of a sample that a learner reads, and its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filtune.optimizers import LoKO
from PIL import Image

from filtune import OnlineLearner
from tests.live.learners import IMAGES, SMALL, learner


def test_an_image_in_all_its_forms(tmp_path: Path) -> None:
    one = learner(columns=["scan"])
    x = IMAGES[0]
    Image.fromarray(x[0].numpy()).save(tmp_path / "x.png")
    forms = [
        x,
        x[0],
        x.numpy(),
        x[0].numpy(),
        x.permute(1, 2, 0).numpy(),
        x[0].tolist(),
        Image.fromarray(x[0].numpy()),
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        (tmp_path / "x.png").read_bytes(),
        {"scan": x, "other": 1},
    ]
    assert all(torch.equal(one.inputs.read(form), x) for form in forms)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ("no.png", "x: image not found: no.png"),
        ("http://host/x.png", "x: image is an address, which is not fetched"),
        (b"nonsense", "x: undecodable image"),
        (3, "x: no image can be made of 3: it is none of PIL's images, an array"),
        (
            torch.zeros(2, 2, dtype=torch.int64),
            "no image can be made of Tensor .2, 2. torch.int64: a tensor must be",
        ),
        (torch.zeros(2, 2, 2, 2), "a tensor must be .C, H, W. or .H, W."),
        (torch.full((1, 4, 4), float("nan")), "x: the image has a pixel that is NaN or infinite"),
        (np.full((4, 4), 300), "integers beyond 0..255"),
        ({"a": 1}, "x: a dict of columns needs their names; build the learner with columns=....., of .'a'."),
    ],
)
def test_bad_images_are_refused_in_one_line(x: Any, words: str) -> None:
    one = learner()
    with pytest.raises(ValueError, match=words) as caught:
        one.learn_one(x, "a")
    assert "\n" not in str(caught.value)
    assert one.steps == 0


def test_texts_and_pairs(tmp_path: Path, tiny_bert: Path) -> None:
    one = OnlineLearner("classification", str(tiny_bert), LoKO, ["no", "yes"], columns=["title", "body"])
    (tmp_path / "x.txt").write_text("good film")
    assert one.task.modality == "text"
    one.learn_one(("good film", "great story"), "yes")
    one.learn_one({"title": "bad", "body": "plot", "id": 7}, "no")
    one.learn_one(tmp_path / "x.txt", "yes")
    one.learn_many(["dull", "bright"], ["no", "yes"])
    assert one.steps == 4
    assert set(one.predict_many(["good", "bad"])) <= {"no", "yes"}
    assert sum(one.predict_proba_one("good").values()) == pytest.approx(1)
    for x, words in [
        (" ", "a text or a pair of texts is needed, none of them empty"),
        (("a", "b", "c"), "a text or a pair"),
        ({"title": "a"}, "the dict has no column 'body'; it has title"),
        (tmp_path / "no.txt", "cannot be read as a text in UTF-8"),
    ]:
        with pytest.raises(ValueError, match=words):
            one.predict_one(x)


def test_labels_are_the_classes_themselves() -> None:
    one = learner(classes=[7, 3])
    one.learn_one(IMAGES[0], 3)
    one.learn_one(IMAGES[1], np.int64(7))
    one.learn_one(IMAGES[2], torch.tensor(3))
    one.learn_one(IMAGES[3], 7.0)
    assert one.predict_one(IMAGES[0]) in (7, 3)
    assert set(one.predict_proba_one(IMAGES[0])) == {7, 3}
    with pytest.raises(ValueError, match="y: '1' label not among the classes 7, 3; new_classes='add'"):
        one.learn_one(IMAGES[0], 1)
    assert one.steps == 4


def test_several_labels_of_a_sample() -> None:
    one = OnlineLearner("multilabel", SMALL, LoKO, ["x", "y", "z"], image_shape=(1, 8, 8))
    one.learn_one(IMAGES[0], ["x", "z"])
    one.learn_one(IMAGES[1], [])
    assert set(one.predict_one(IMAGES[0])) <= {"x", "y", "z"}
    assert set(one.predict_proba_one(IMAGES[0])) == {"x", "y", "z"}
    assert set(one.uncertainty(IMAGES[0])["logit_std"]) == {"x", "y", "z"}


def test_missing_labels_are_counted() -> None:
    one = learner()
    for y in (None, float("nan"), " "):
        one.learn_one(IMAGES[0], y)
    one.learn_many(IMAGES[:3], ["a", None, "b"])
    assert one.metrics["unlabelled"] == 4
    assert (one.steps, one.metrics["samples"]) == (1, 2)
