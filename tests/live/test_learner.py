"""A learner's inputs, labels, late labels, new classes, copies and refusals."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filtune.datamodules import DigitsDataModule
from filtune.lightning_modules import Backbone, BackboneConfig, CheckpointError
from filtune.optimizers import SGD, AdamW, Filtune, LoKO
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from filtune import OnlineLearner

SMALL = {"name": "lenet_small", "pretrained": False}


def learner(optimizer: Any = LoKO, classes: Any = "abc", **options: Any) -> OnlineLearner:
    classes = list(classes) if classes != "open" else classes
    return OnlineLearner("classification", SMALL, optimizer, classes, image_shape=(1, 8, 8), **options)


def digits(count: int) -> list[torch.Tensor]:
    data = DigitsDataModule(max_samples=count)
    data.setup()
    return [batch["image"][0] for batch in data.train_dataloader()]


IMAGES = digits(40)


def same(first: OnlineLearner, second: OnlineLearner) -> bool:
    """Whether two learners have the same parameters, filter, metrics and waiting samples, bit for bit."""
    models = first.model.state_dict(), second.model.state_dict()
    equal = all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    states = (each.optimizer.state_dict()["state"] for each in (first, second))
    flat = [{f"{k}.{n}": v for k, values in state.items() for n, v in values.items()} for state in states]
    equal &= flat[0].keys() == flat[1].keys() and all(torch.equal(v, flat[1][k]) for k, v in flat[0].items())
    waiting = [each.pending.state() for each in (first, second)]
    equal &= repr(waiting[0]) == repr(waiting[1])
    return equal and first.metrics == second.metrics and first.drift == second.drift and first.classes == second.classes


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


# inputs


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


# labels


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


# late labels


def test_labels_that_come_late() -> None:
    first, second = learner(), learner()
    answers = [first.predict_one(x, id=i) for i, x in enumerate(IMAGES[:3])]
    first.learn_one(IMAGES[3], None, id="unasked")
    for i, y in ((2, "c"), (0, "a"), ("unasked", "b")):
        assert first.feedback(i, y)
        second.learn_one(IMAGES[3 if i == "unasked" else i], y)
    assert not first.feedback(2, "c")  # a duplicate changes nothing
    assert not first.feedback("never", "a")
    assert not first.feedback(1, None)
    assert 1 in first.pending
    assert first.pending.unknown == 2
    assert all(map(torch.equal, first.model.state_dict().values(), second.model.state_dict().values()))
    right = (answers[2] == "c") + (answers[0] == "a")
    assert first.metrics["answered_accuracy"] == 50 * right


@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from(["add", "take"]), st.integers(0, 6)), max_size=30),
)
def test_the_buffer_keeps_the_newest(most: int, actions: list[tuple[str, int]]) -> None:
    from filtune.live.pending import Pending, Waiting

    pending, expected = Pending(most), dict[int, int]()
    dropped = unknown = 0
    for n, (action, id) in enumerate(actions):
        if action == "add":
            pending.add(id, Waiting(n))
            expected.pop(id, None)
            expected[id] = n
            while len(expected) > most:
                expected.pop(next(iter(expected)))
                dropped += 1
        else:
            found = pending.take(id)
            assert (None if found is None else found.sample) == expected.pop(id, None)
            unknown += found is None
    assert (len(pending), pending.dropped, pending.unknown) == (len(expected), dropped, unknown)
    again = Pending(most)
    again.load(pending.state())
    assert again.state() == pending.state()


# new classes


def test_classes_that_come_while_it_runs() -> None:
    one = learner(Filtune, "open")
    assert one.predict_one(IMAGES[0]) is None
    assert one.predict_proba_one(IMAGES[0]) == {}
    one.learn_one(IMAGES[0], "a")
    assert (one.predict_one(IMAGES[0]), one.predict_proba_one(IMAGES[0])) == ("a", {"a": 1.0})
    for x, y in zip(IMAGES[1:9], "abcabdca", strict=True):
        one.learn_one(x, y)
    assert one.classes == ["a", "b", "c", "d"]
    assert one.task.outputs == 4
    assert set(one.predict_proba_one(IMAGES[0])) == set("abcd")
    assert one.metrics["samples"] == 9
    one.learn_many(IMAGES[10:13], ["e", "f", "e"])
    assert one.classes == list("abcdef")
    assert "online_top5" in one.metrics
    assert set(one.uncertainty(IMAGES[0])["probability"]) == set("abcdef")


def test_a_grown_model_is_the_model_that_knew_the_classes_but_saw_them_later() -> None:
    """What was counted so far stays, and so do the predictions among the classes known."""
    one = learner(LoKO, "ab", new_classes="add")
    for x, y in zip(IMAGES[:10], "ababbabaab", strict=True):
        one.learn_one(x, y)
    before, figures = one.predict_proba_one(IMAGES[20]), one.metrics
    one.add_classes(["c"])
    after = one.predict_proba_one(IMAGES[20])
    odds = {name: value / (1 - after["c"]) for name, value in after.items() if name != "c"}
    assert odds == pytest.approx(before, rel=1e-5)
    assert one.metrics == figures


def test_a_stream_of_numbers_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from filtune.live import labels

    monkeypatch.setattr(labels, "MOST_CLASSES", 3)
    one = learner(LoKO, "ab", new_classes="add")
    one.learn_one(IMAGES[0], 1.5)
    with pytest.raises(ValueError, match="y: '2.5' would be class 4; the labels look like numbers"):
        one.learn_one(IMAGES[0], 2.5)


def test_what_cannot_take_new_classes_says_so_at_the_start() -> None:
    with pytest.raises(ValueError, match="NGD: cannot take new classes while it runs; take a filter"):
        learner("ngd", "open")
    with pytest.raises(ValueError, match="a regression task has no classes that could be added"):
        OnlineLearner("regression", SMALL, LoKO, image_shape=(1, 8, 8), new_classes="add")


# refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": []}, "classes: a classification task needs the classes"),
        ({"classes": ["a"]}, "classes: there must be two at least"),
        ({"classes": ["1", 1]}, "classes: '1' is there twice"),
        ({"classes": "ab"}, "classes: a list is needed, or 'open'; got 'ab'"),
        ({"optimizer": "lokoo"}, "did you mean"),
        ({"optimizer": torch.optim.SGD}, "optimizer: a class of filtune's, or its name, is needed"),
        ({"optimizer": partial(LoKO, q=1)}, "optimizer: .*'q'; correct its options"),
        ({"backbone": {"name": "lenet5", "size": 3}}, "model.backbone: there is no option 'size'"),
        ({"task": "guess"}, "there is no task of the kind 'guess'"),
        ({"schedule": {"decay": "linear"}}, "model.schedule.decay: linear needs the length of the stream"),
        ({"precision": "16-mixed"}, "trainer.precision: a learner has no 16-mixed"),
        ({"new_classes": "maybe"}, "new_classes: must be 'refuse' or 'add', got 'maybe'"),
        ({"max_pending": -1}, "max_pending: must be a number of samples"),
        ({"columns": ["a", "b"]}, "columns: a list of at most 1 names is needed for images"),
    ],
)
def test_wrong_parts_are_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    given = {"backbone": SMALL, "classes": ["a", "b"], "image_shape": (1, 8, 8), **options}
    with pytest.raises(ValueError, match=words) as caught:
        OnlineLearner(**given)
    assert "\n" not in str(caught.value)


def test_a_file_of_a_stranger_imports_nothing(tmp_path: Path) -> None:
    one = learner(SGD)
    one.settings.config["optimizer"]["class_path"] = "os.path.join"
    one.save(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="os.path.join is not a class of filtune"):
        OnlineLearner.load(tmp_path / "a.ckpt")


def test_another_backbone_is_refused(tmp_path: Path, tiny_bert: Path) -> None:
    one = OnlineLearner("classification", {"name": str(tiny_bert), "adapter": "head"}, LoKO, ["no", "yes"])
    one.save(tmp_path / "a.ckpt")
    one.settings.config["seed_everything"] = 1
    one.settings.config["model"]["backbone"]["pretrained"] = False
    one.save(tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match="the frozen weights of .* are not those the checkpoint was trained on"):
        OnlineLearner.load(tmp_path / "b.ckpt")


def test_divergence_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from filtune.live import core

    monkeypatch.setattr(core, "CHECK_INTERVAL", 2)
    one = learner(partial(SGD, lr=1e30))
    one.learn_one(IMAGES[0], "a")
    with pytest.raises(FloatingPointError, match="step 2: .* non-finite"):
        one.learn_one(IMAGES[1], "a")


class OwnBackbone(Backbone):
    """A linear layer on the pixels."""

    modality = "image"

    @classmethod
    def build(cls, config: BackboneConfig, task: Any) -> OwnBackbone:
        return cls(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, task.outputs)), ("1",))

    def preprocess(self, batch: dict[str, Any]) -> torch.Tensor:
        return batch["image"].float() / 255


def test_a_backbone_of_ones_own(tmp_path: Path) -> None:
    path = f"{__name__}.OwnBackbone"
    one = OnlineLearner("classification", {"name": path, "pretrained": False}, LoKO, "open", image_shape=(1, 8, 8))
    for x, y in zip(IMAGES[:6], "abcabc", strict=True):
        one.learn_one(x, y)
    one.save(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="OwnBackbone is not a class of filtune"):
        OnlineLearner.load(tmp_path / "a.ckpt")
    assert same(one, OnlineLearner.load(tmp_path / "a.ckpt", own=[path]))
