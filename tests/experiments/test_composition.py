"""Configurations composed of parts: what wins and what a dotted key means."""

import copy

import pytest
from filtune.experiments.composition import (
    assign,
    compose,
    grid_points,
    lookup,
    parse_options,
    parse_value,
    point_name,
)
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text(max_size=5))
KEYS = st.lists(st.sampled_from(["trainer", "model", "a", "b", "c"]), min_size=1, max_size=4).map(".".join)


def test_later_parts_and_options_win():
    config = compose(["trainer/cpu", "task/sst2", "adamw"], {"optimizer.lr": 0.5, "trainer.max_epochs": 3})
    assert lookup(config, "optimizer.lr") == 0.5
    assert config["optimizer"]["init_args"]["lr"] == 0.5
    assert config["trainer"]["max_epochs"] == 3
    assert config["data"]["init_args"]["name"] == "sst2"


def test_composing_leaves_its_arguments_alone():
    first = compose(["task/digits", "adamw"])
    before = copy.deepcopy(first)
    compose([], first, {"optimizer.lr": 7.0, "data.max_samples": 3})
    assert first == before


@given(KEYS, VALUES)
def test_what_is_set_is_found(key, value):
    config = {}
    assign(config, key, value)
    assert lookup(config, key) == value


def test_an_option_below_a_value_is_refused():
    with pytest.raises(ValueError, match="lr has no options"):
        assign({"optimizer": {"init_args": {"lr": 0.1}}}, "optimizer.lr.x", 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("-2E5", -2e5), ("3", 3), ("true", True), ("null", None), ("sst2", "sst2"), ("[a]", ["a"])],
)
def test_values_are_read_as_people_write_them(text, value):
    assert parse_value(text) == value


def test_an_option_needs_an_equals_sign():
    with pytest.raises(ValueError, match="--set data.max_samples: is to be KEY=VALUE"):
        parse_options(["data.max_samples"], "--set")


def test_a_grid_has_all_combinations():
    points = grid_points({"optimizer.lr": [1e-3, 1e-2], "data.batch_size": [1, 2, 4]})
    assert len(points) == 6
    assert len({point_name(point) for point in points}) == 6
    assert point_name(points[0]) == "lr=0.001,batch_size=1"
    assert grid_points({}) == [{}]
