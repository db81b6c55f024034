"""River's checks, evaluation, pipelines and drift detectors on a learner."""

from __future__ import annotations

import copy
import pickle
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.datamodules import DigitsDataModule
from filtune.optimizers import AdamW

pytest.importorskip("river", reason="River is not installed (pip install 'filtune[river]'; Python 3.11 or newer)")

import pandas as pd
from filtune.live.adapters import library
from filtune.live.adapters.river import FAST, RiverClassifier, RiverRegressor
from river import base, checks, compose, drift, evaluate, metrics, preprocessing

from tests.live.test_equals_fit import CONFIG, fitted, stream

MODELS = [RiverClassifier, RiverRegressor]
SAMPLES, MANY = 5, 33
"""Samples of a check in the default suite; those of mini-batches learn from 30 before they look."""


def tabular(count: int, seed: int = 0, flip: int | None = None) -> list[tuple[dict[str, float], str]]:
    """Return samples of two classes by the sign of a feature, which turns round at sample ``flip``."""
    draw, found = random.Random(seed), []
    for i in range(count):
        x = {"a": draw.gauss(50, 10), "b": draw.gauss(0, 1)}
        found.append((x, "high" if (x["a"] > 50) != (flip is not None and i >= flip) else "low"))
    return found


@pytest.mark.parametrize("cls", MODELS)
def test_checks_of_river(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that River has for such a model but that of memory, on few samples; the slow test has all of it."""
    full = checks._yield_datasets  # of River: its checks have no option for their size

    def short(model: Any, scale: int = 1) -> Any:
        for each in full(model, scale) if scale == 1 else ():
            yield checks._DummyDataset(*(pair for pair, _ in zip(each, range(MANY), strict=False)))

    monkeypatch.setattr(checks, "_yield_datasets", short)
    model, names = cls(optimizer=FAST), set()
    for check in checks.yield_checks(model):
        if check.__name__ not in model._unit_test_skips():  # of River
            names.add(check.__name__)
            if "_many_" not in check.__name__ and hasattr(check, "keywords"):
                check.keywords["dataset"].data = check.keywords["dataset"].data[:SAMPLES]
            check(model.clone())
    assert {"check_emerging_features", "check_pickling", "check_predict_many_matches_predict_one"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("cls", MODELS)
def test_all_checks_of_river(cls: Any) -> None:
    checks.check_estimator(cls(optimizer=FAST))


def test_a_sample_that_is_changed_later_changes_nothing() -> None:
    """In place of River's check, which compares pickles by their bytes."""
    model = RiverClassifier(optimizer=FAST)
    for x, y in tabular(3):
        model.learn_one(x, y)
    model.learner.predict_one(x, id=1)
    before = [tensor.clone() for tensor in model.learner.model.state_dict().values()]
    waiting, features = repr(model.learner.pending.state()), repr(model.learner.inputs.features)
    x["a"] += 1e9
    x.pop("b")
    assert all(map(torch.equal, model.learner.model.state_dict().values(), before))
    assert (repr(model.learner.pending.state()), repr(model.learner.inputs.features)) == (waiting, features)


def test_accuracy_by_river_is_that_of_fit(tmp_path: Path) -> None:
    """To the last digit, on digits with LeNet-5: River asks for a prediction before each label, and counts itself."""
    options = ["--config", "task/digits", "--config", "backbone/lenet5", "--config", "trainer/cpu"]
    checkpoint = fitted(tmp_path, *options, "--optimizer=loko", "--data.max_samples=40")
    config = {name: checkpoint["filtune"]["config"][name] for name in CONFIG}
    model = RiverClassifier(config=config, classes=tuple(range(10)))
    samples = [(x.numpy(), int(y)) for (x,), (y,) in stream(DigitsDataModule(max_samples=40))]
    metric = evaluate.progressive_val_score(samples, model, metrics.Accuracy())
    own = model.learner.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in checkpoint["state_dict"].items())
    by_fit = float(model.learner.model.online.compute()["online/accuracy"])  # of the state of fit, as was just seen
    assert torch.tensor(100 * metric.get(), dtype=torch.float32) == by_fit
    assert 0 < metric.get() < 1


@pytest.mark.parametrize("classes", ["open", (3, 5), (0, 1, 2, 3, 4, 5)])
def test_accuracy_by_river_is_that_of_the_learner(classes: Any) -> None:
    """Also where classes come on the way: River counts every prediction that there was before its label."""
    options = {"new_classes": "add"} if classes == (3, 5) else {}
    model, draw = RiverClassifier(optimizer=FAST, classes=classes, **options), random.Random(1)
    labels = [3, 3, 3, 5, 3, *(draw.choice([3, 5, 1, 2, 0, 4][: 2 + i // 6]) for i in range(30))]
    samples = [({"a": y + draw.gauss(0, 1), "b": draw.gauss(0, 1)}, y) for y in labels]
    metric = evaluate.progressive_val_score(samples, model, metrics.Accuracy())
    found = model.learner.metrics["online_accuracy"]
    assert 100 * metric.get() == pytest.approx(found, rel=1e-6)  # of single precision; one sample more is 3e-2
    assert model.learner.metrics["samples"] == len(labels)


def test_a_pipeline() -> None:
    model = compose.Select("a") | preprocessing.MinMaxScaler() | RiverClassifier(optimizer=partial(AdamW, lr=0.03))
    metric = evaluate.progressive_val_score(tabular(100), model, metrics.Accuracy())
    assert metric.get() > 0.65
    assert model["RiverClassifier"].learner.inputs.features.names == ("a",)
    fresh = model.clone()
    assert fresh["RiverClassifier"].learner is None
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        x, y = tabular(1, seed=3)[0]
        assert twin.predict_proba_one(x) == model.predict_proba_one(x)
        twin.learn_one(x, y)
        assert twin.predict_proba_one(x) != model.predict_proba_one(x)


def test_a_regression() -> None:
    model = RiverRegressor(optimizer=FAST)
    assert model.predict_one({"a": 1}) == 0
    samples = [(x, 1000 + 3 * x["a"]) for x, _ in tabular(150)]
    model.learn_one(*samples[0])
    evaluate.progressive_val_score(samples[1:], model, metrics.MAE())
    frame = pd.DataFrame([x for x, _ in samples[:9]], index=range(3, 12))
    found = model.predict_many(frame)
    assert list(found.index) == list(frame.index)
    assert found.corr(frame["a"]) > 0.9
    assert (found - 1000 - 3 * frame["a"]).abs().mean() < 24  # that of the best constant
    model.learn_many(frame, pd.Series([y for _, y in samples[:9]]))
    assert model.learner.steps == 151


def test_texts(tiny_bert: Path) -> None:
    model = RiverClassifier(str(tiny_bert), FAST, classes=("no", "yes"), columns=["text"])
    for text, y in (("good film", "yes"), ("bad film", "no")) * 2:
        model.learn_one({"text": text, "length": 2}, y)
    assert sum(model.predict_proba_one({"text": "good film"}).values()) == pytest.approx(1, abs=1e-12)
    bare = RiverClassifier(str(tiny_bert), FAST)
    bare.learn_one("good film", "yes")
    assert bare.predict_one("bad film") == "yes"  # the only class so far


def test_frames_and_classes_that_come() -> None:
    model = RiverClassifier(optimizer=FAST)
    assert model.predict_one({"a": 1}) is None
    assert model.predict_proba_one({"a": 1}) == {}
    frame = pd.DataFrame([{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": float("nan")}], index=["x", "y"])
    assert model.predict_many(frame).tolist() == [None, None]
    model.learn_many(frame, pd.Series([3, 5]))
    model.learn_one({"a": 3, "new": 1}, None)
    assert model.learner.metrics["unlabelled"] == 1
    found = model.predict_proba_many(frame)
    assert list(found.columns) == [3, 5]
    assert list(found.index) == ["x", "y"]
    assert found.sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-12)
    model.learn_one({"a": 3}, 9)
    assert set(model.predict_proba_one({"a": 1})) == {3, 5, 9}


def test_restart_by_adwin() -> None:
    """ADWIN gets what an own one gets: the errors of the predictions before each label."""
    detector, own = (drift.ADWIN(delta=0.1, clock=4) for _ in range(2))
    model, found = RiverClassifier(optimizer=FAST, drift_detector=detector, on_drift="restart"), []
    for x, y in tabular(240, flip=140):
        own.update(int(model.predict_one(x) != y))
        if own.drift_detected:
            found.append(model.samples)
        model.learn_one(x, y)
    assert (model.drifts, model.last_drift) == (len(found), found[-1])
    assert found[-1] >= 140
    assert model.learner.steps == 240 - found[-1]
    assert sorted(model.learner.classes) == ["high", "low"]
    assert model.learner.inputs.features.count[0] == 240  # the statistics of the features are kept
    fresh = model.clone()
    assert fresh.drift_detector is not detector
    assert fresh.drifts == 0


class AtTheThird(base.DriftDetector):
    """Detects a drift at its third value."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def update(self, x: float) -> None:
        self.values.append(x)
        self._drift_detected = len(self.values) == 3


@pytest.mark.parametrize("on_drift", ["record", "restart"])
@pytest.mark.parametrize("classes", ["open", ("low", "high")])
def test_what_a_drift_does(on_drift: Any, classes: Any) -> None:
    model = RiverClassifier(optimizer=FAST, classes=classes, drift_detector=AtTheThird(), on_drift=on_drift)
    samples = tabular(6)
    for x, y in samples[:4]:
        model.learn_one(x, y)
    frame = pd.DataFrame([x for x, _ in samples[4:]])
    model.learn_many(frame, pd.Series([y for _, y in samples[4:]]))
    assert len(model.drift_detector.values) == 6
    assert set(model.drift_detector.values) <= {0, 1}
    assert (model.drifts, model.last_drift, model.samples) == (1, 2, 6)
    assert model.learner.metrics["samples"] == (4 if on_drift == "restart" else 6)
    assert sorted(model.learner.classes) == ["high", "low"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_drift": "stop"}, "on_drift: must be 'record' or 'restart', got 'stop'"),
        ({"on_drift": "restart"}, "on_drift: 'restart' needs a drift_detector"),
    ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RiverClassifier(**options)


def test_a_configuration_excludes_its_parts() -> None:
    with pytest.raises(ValueError, match="config: it names backbone and optimizer itself"):
        RiverClassifier(optimizer=FAST, config="quickstart").learn_one({"a": 1}, "x")


def test_the_library_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river.base", None)
    with pytest.raises(ImportError, match=r"^river is needed: pip install 'filtune\[river\]' \(.*\)$"):
        library("river.base", "river")
