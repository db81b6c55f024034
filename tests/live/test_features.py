"""Numbers by name: standardised as they come, with places for names that come later; the network on them."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filtune.datamodules import Task
from filtune.lightning_modules import BackboneConfig, build_backbone
from filtune.live.features import CLIP, Features, row_of
from filtune.optimizers import AdamW, Filtune
from hypothesis import given
from hypothesis import strategies as st

from filtune import OnlineLearner

MLP = {"name": "mlp", "pretrained": False}
ROWS = st.lists(st.dictionaries(st.sampled_from("abcde"), st.floats(-1e6, 1e6), max_size=5), min_size=1, max_size=12)


def learner(**options: Any) -> OnlineLearner:
    return OnlineLearner("classification", MLP, partial(AdamW, lr=0.01), ["no", "yes"], **options)


@given(ROWS)
def test_statistics_are_those_of_all_values_seen(rows: list[dict[str, float]]) -> None:
    found = Features.empty(5).learn(rows)
    for place, name in enumerate(found.names):
        values = np.array([row[name] for row in rows if name in row])
        scale = np.abs(values).max()
        # Welford's update is backward stable: each of n updates rounds at most once to the size of the values
        assert abs(found.mean[place] - values.mean()) <= 2 * len(values) * np.finfo(float).eps * scale
        squares = ((values - values.mean()) ** 2).sum()
        assert abs(found.squares[place] - squares) <= 8 * len(values) ** 2 * np.finfo(float).eps * scale**2
    assert set(found.names) == set().union(*rows)


@given(ROWS, st.randoms())
def test_the_order_within_a_sample_does_not_matter(rows: list[dict[str, float]], random: Any) -> None:
    shuffled = [{name: row[name] for name in random.sample([*row], len(row))} for row in rows]
    first, second = Features.empty(5).learn(rows), Features.empty(5).learn(shuffled)
    assert first.names == second.names
    assert torch.equal(first.vectors(rows), second.vectors(shuffled))


def test_a_vector_by_hand() -> None:
    found = Features.empty(4)
    assert found.vectors([{"b": -3, "a": 7}]).tolist() == [[1, -1, 0, 0]]  # the sign, in the order of the names
    found = found.learn([{"b": 1.0}, {"b": 3.0, "a": 5.0}])  # b came first
    assert found.names == ("b", "a")
    vectors = found.vectors([{"b": 4.0, "a": 5.0}, {"b": 1e9, "a": 6.0}, {"c": -1, "d": 2, "e": 3}, {}])
    assert vectors.tolist() == [[2, 0, 0, 0], [CLIP, 1, 0, 0], [0, 0, -1, 1], [0, 0, 0, 0]]
    full = found.learn([{"c": 1, "d": 2, "e": 3, "f": 4}])
    assert full.names == ("b", "a", "c", "d")
    assert full.left_out == 2
    assert found.names == ("b", "a")  # it is as it was


def test_a_sample_of_numbers() -> None:
    x = {"a": True, "b": np.float32(2), "c": None, "d": float("nan"), 5: torch.tensor(3)}
    assert row_of(x) == {"a": 1, "b": 2, 5: 3}
    assert row_of(x, ["b", "z"]) == {"b": 2}
    assert row_of([4, None, 6]) == row_of(np.array([4, math.nan, 6])) == {0: 4, 2: 6}
    for wrong, words in {
        "text": "a dict of numbers, or a list of them, is needed; got str",
        ("a",): "the feature 0 is 'a', not a number; encode it first",
        (math.inf,): "the feature 0 is inf; a finite number",
        ((1, 2), (3, 4)): "a dict of numbers",
    }.items():
        with pytest.raises(ValueError, match=words) as caught:
            row_of(wrong)
        assert "\n" not in str(caught.value)


def test_what_is_predicted_is_what_is_scored(tmp_path: Path) -> None:
    """A prediction knows the statistics of the samples before it, as the step that learns from it does."""
    one, right = learner(), 0
    for i in range(24):
        x = {"a": 100 + 10 * math.sin(i), "b": i % 3, **({"late": -i} if i > 12 else {})}
        y = "yes" if math.sin(i) > 0 else "no"
        right += one.predict_one(x) == y
        one.learn_one(x, y)
    assert one.metrics["online_accuracy"] == pytest.approx(100 * right / 24, rel=1e-6)
    assert one.inputs.features.names == ("a", "b", "late")
    one.predict_one(x, id="later")
    one.save(tmp_path / "a.ckpt")
    for twin in (OnlineLearner.load(tmp_path / "a.ckpt"), pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert twin.predict_proba_one(x) == one.predict_proba_one(x)
        assert twin.feedback("later", "yes")
        assert twin.predict_proba_one(x) != one.predict_proba_one(x)


def test_columns_choose_features() -> None:
    one = learner(columns=["a", "b"])
    one.learn_one({"a": 1, "b": 2, "name": "x"}, "yes")
    assert one.inputs.features.names == ("a", "b")
    assert one.task.features == 2
    with pytest.raises(ValueError, match="the feature 'name' is 'x', not a number"):
        learner().learn_one({"a": 1, "name": "x"}, "yes")


def test_a_first_sample_of_zeros_is_no_end() -> None:
    """All derivatives of the first layer are zero then, by which Filtune sets its first variances."""
    one = OnlineLearner("classification", MLP, Filtune, ["no", "yes"])
    for i in range(40):
        one.learn_one({"a": i % 2, "b": 0}, "yes" if i % 2 else "no")
    assert one.predict_one({"a": 1, "b": 0}) == "yes"
    assert one.predict_one({"a": 0, "b": 0}) == "no"


def test_the_network() -> None:
    task = Task("t", "classification", 2, ("a", "b"), "table", None, (), features=16)
    backbone = build_backbone(BackboneConfig(**MLP), task)
    assert sum(param.numel() for param in backbone.parameters()) == 1666
    assert backbone(backbone.preprocess({"table": torch.zeros(3, 16)})).shape == (3, 2)
    images = Task("digits", "classification", 2, ("a", "b"), "image", (1, 8, 8), ())
    with pytest.raises(ValueError, match="'mlp' takes tables, but the task digits has images"):
        build_backbone(BackboneConfig(**MLP), images)
