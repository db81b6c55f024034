"""A run's key: a default written out never changes it, anything else does; renames and spellings do not."""

from __future__ import annotations

import copy
import inspect
import re
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import pytest
from filtune.experiments.composition import compose, lookup
from filtune.experiments.keys import canonical_form, complete, record_key, run_key
from filtune.lightning_modules.legacy import translate
from hypothesis import assume, given
from hypothesis import strategies as st

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-1000, 1000), st.floats(allow_nan=False), st.sampled_from(["a", "b c", "x/y"])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.sampled_from("pqr"), SCALARS, max_size=2))
NAMES = st.sampled_from(["one", "two", "three", "four", "five"])


def build(options: dict[str, Any]) -> str:
    """Make a class whose constructor has these options with these defaults, and return its path."""

    def init(self: Any, **_: Any) -> None:
        pass

    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in options.items()
    ]
    init.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    module = types.ModuleType("made_for_keys")
    module.Made = type("Made", (), {"__init__": init})  # type: ignore[attr-defined]
    sys.modules["made_for_keys"] = module
    return "made_for_keys.Made"


def config_of(path: str, given: dict[str, Any], section: str = "data") -> dict[str, Any]:
    return {section: {"class_path": path, "init_args": given}}


@given(
    st.dictionaries(NAMES, VALUES),
    st.dictionaries(NAMES, VALUES),
    st.sets(NAMES),
    st.sampled_from(["data", "optimizer"]),
)
def test_a_default_never_changes_the_key(defaults: dict, given: dict, written: set, section: str) -> None:
    """Neither by being written out, nor by being an option that the class did not have before."""
    given = {name: value for name, value in given.items() if name not in written}
    before = run_key(config_of(build({k: v for k, v in defaults.items() if k in given}), given, section), 0)
    path = build(defaults)
    out = {**{name: defaults[name] for name in written & defaults.keys()}, **given}
    assert run_key(config_of(path, out, section), 0) == before
    assert run_key(complete(config_of(path, out, section)), 0) == before


def same(a: Any, b: Any) -> bool:
    """Whether two values mean the same: numbers by value, and no number is a truth value."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@given(st.dictionaries(NAMES, VALUES, min_size=1), st.data())
def test_anything_but_a_default_changes_the_key(defaults: dict, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(defaults)))
    one, other = data.draw(VALUES), data.draw(VALUES)
    path = build(defaults)
    found = {run_key(config_of(path, {name: value}), 0) for value in (one, other)}
    assert (len(found) == 1) == same(one, other)
    plain = run_key(config_of(path, {}), 0)
    assert (run_key(config_of(path, {name: one}), 0) == plain) == same(one, defaults[name])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_compared_by_value(number: float) -> None:
    spelled = [number, repr(number), *([int(number)] if number.is_integer() else [])]
    assume(re.fullmatch(r"[-+.\deE]+", repr(number)))
    path = build({})
    assert len({run_key(config_of(path, {"one": value}), 0) for value in spelled}) == 1


def test_spellings_of_a_rate_and_a_flag() -> None:
    base = ["trainer/auto", "task/digits", "backbone/lenet5", "adamw"]
    rates = [compose(base, {"optimizer.lr": value}) for value in (1e-3, 0.001, "1e-3", 10**-3)]
    assert len({run_key(config, 0) for config in rates}) == 1
    path = build({"one": True})
    assert run_key(config_of(path, {"one": 1}), 0) != run_key(config_of(path, {"one": True}), 0)
    assert run_key(config_of(path, {"one": None}), 0) != run_key(config_of(path, {}), 0)


def test_form_and_seed() -> None:
    config = compose(["trainer/auto", "task/digits", "backbone/lenet5", "loko"])
    assert re.fullmatch(r"v2-[0-9a-f]{16}", run_key(config, 0))
    assert run_key(config, 0) != run_key(config, 1)
    before = copy.deepcopy(config)
    assert run_key(compose(["loko", "task/digits", "backbone/lenet5", "trainer/auto"]), 0) == run_key(config, 0)
    assert config == before


def test_where_and_how_a_run_is_made_do_not_count() -> None:
    config = compose(["trainer/auto", "task/digits", "backbone/lenet5", "loko"])
    elsewhere = compose([], config, {"run.root": "elsewhere", "run.save_interval": 7, "ckpt_path": "last"})
    assert run_key(elsewhere, 0) == run_key(config, 0)
    display = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "default_root_dir": "x"}
    for name, value in {"accelerator": "cpu", **display}.items():
        assert run_key(compose([], config, {f"trainer.{name}": value}), 0) == run_key(config, 0)
    for name, value in {"devices": 2, "precision": "bf16-mixed", "log_every_n_steps": 8}.items():
        assert run_key(compose([], config, {f"trainer.{name}": value}), 0) != run_key(config, 0)


@pytest.mark.parametrize(
    ("spec", "flat"),
    [
        ({"name": "low_rank", "rank": 5}, {"covariance": "low_rank", "rank": 5}),
        ({"name": "low_rank"}, {}),
        ({"name": "low_rank", "rank": 10, "forgetting_factor": 1.0}, {}),
        ({"name": "diagonal"}, {"covariance": "diagonal"}),
    ],
)
def test_options_of_a_part_are_those_of_the_optimizer(spec: dict, flat: dict) -> None:
    found, expected = (config_of("filtune.EKF", options, "optimizer") for options in ({"covariance": spec}, flat))
    assert run_key(found, 0) == run_key(expected, 0) == run_key(complete(found), 0)


def test_options_of_a_part_count() -> None:
    specs = ["low_rank", {"name": "low_rank", "rank": 5}, {"name": "low_rank", "rank": 6}]
    specs += [{"name": "low_rank", "forgetting_factor": 0.9}, {"name": "mine"}, {"name": "mine", "a": 1}]
    assert len({run_key(config_of("filtune.EKF", {"covariance": spec}, "optimizer"), 0) for spec in specs}) == 6


def test_what_differs_is_found_within_dataclasses_and_lists_of_classes() -> None:
    config = compose(["trainer/auto", "task/changing_digits", "backbone/lenet5", "adamw"], {"optimizer.lr": 0.5})
    found = canonical_form(config)
    assert found["optimizer"] == {"class_path": "filtune.AdamW", "init_args": {"lr": 0.5}}
    assert found["data"]["init_args"]["streams"] == [{"class_path": "filtune.DigitsDataModule"}]
    assert found["data"]["init_args"]["segments"][0] == {"samples": 400}
    assert found["model"]["backbone"] == {"pretrained": False}
    explicit = compose([], config, {"model.schedule.warmup": 0, "model.backbone.rank": 8, "data.num_workers": 0})
    assert run_key(explicit, 0) == run_key(config, 0)
    assert run_key(compose([], config, {"model.backbone.rank": 9}), 0) != run_key(config, 0)


@dataclass
class Part:
    """An option that holds options."""

    size: int = 3
    names: list[str] = field(default_factory=lambda: ["a"])


class Whole:
    """Holds one part, or none, or several."""

    def __init__(self, part: Part | None = None, parts: list[Part] | None = None) -> None:
        self.part, self.parts = part, parts


def test_a_part_with_defaults_alone_is_no_difference() -> None:
    path = f"{__name__}.Whole"
    plain = run_key(config_of(path, {}), 0)
    assert run_key(config_of(path, {"part": {"size": 3, "names": ["a"]}}), 0) == plain
    assert run_key(config_of(path, {"part": {"size": 4}}), 0) != plain
    one, two = ({"parts": [{"size": 4, **more}]} for more in ({}, {"names": ["a"]}))
    assert run_key(config_of(path, one), 0) == run_key(config_of(path, two), 0) != plain


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("optimizers.Filtune", {"likely": 3}), ("filtune.Filtune", {"top_k": 3})),
        (
            ("optimizers.Filtune", {"renew": 100.0, "likely": 0}),
            ("filtune.Filtune", {"head_reset_scale": 100, "top_k": 0}),
        ),
        (("optimizers.EKF", {"covariance": "neuron"}), ("filtune.EKF", {"covariance": "block_per_neuron"})),
        (("optimizers.RENG", {"grad_reg": 0.05}), ("filtune.RENG", {"grad_penalty": 0.05})),
    ],
)
def test_a_renamed_option_keeps_the_key(old: tuple, new: tuple) -> None:
    before, now = ({**config_of(*each, section="optimizer"), "model": {}} for each in (old, new))
    before["model"], now["model"] = {"average": 100}, {"weight_averaging": 100}
    assert run_key(before, 0) == run_key(now, 0) == run_key(translate(before), 0)


def test_a_hub_id_has_one_key_wherever_it_lies() -> None:
    """--local names folders, which are put in place of the ids only when the run is made."""
    config = compose(["trainer/auto", "task/sst2", "backbone/minilm", "loko"])
    assert lookup(config, "data.source") == "nyu-mll/glue"
    assert run_key(compose([], config, {"data.source": "/data/glue"}), 0) != run_key(config, 0)


def test_a_class_that_is_not_there_has_no_defaults() -> None:
    assert canonical_form(config_of("gone.Away", {"a": None}))["data"] == {
        "class_path": "gone.Away",
        "init_args": {"a": None},
    }


def test_a_record_from_before_an_option_is_one_of_a_run_that_switches_it_off() -> None:
    """Filtune's adapters had no prior of their own once: such a record is no result of today's configuration."""
    config = compose(["optimizer/filtune", "task/digits", "backbone/lenet5"])
    record = {"config": complete(config), "seed": 3}
    assert record_key(record) == run_key(config, 3)
    del record["config"]["optimizer"]["init_args"]["adapter_scale"]
    off = copy.deepcopy(config)
    off["optimizer"].setdefault("init_args", {})["adapter_scale"] = 1.0
    assert record_key(record) == run_key(off, 3) != run_key(config, 3)
