"""An option that is given twice in one place is refused, naming both; a later place overrides an earlier one."""

from __future__ import annotations

from pathlib import Path

import pytest
from filtune.experiments.composition import compose
from filtune.experiments.tables import load_table
from filtune.lightning_modules.legacy import translate, translate_optimizer
from filtune.lightning_modules.yaml_loader import parse_value

from filtune.arguments import read_line

LOKO = ["--config", "task/digits", "--optimizer", "LoKO"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("seed_everything: 1\nrun: {root: x}\nseed_everything: 2\n", ("seed_everything", "line 3", "line 1")),
        ("data:\n  init_args:\n    seed: 1\n    seed: 2\n", ("seed stands there twice", "line 4")),
        ("data: {init_args: {seed: 1, seed: 1}}\n", ("seed stands there twice",)),
        ("trainer: {callbacks: [{class_path: A, class_path: B}]}\n", ("class_path stands there twice",)),
    ],
)
def test_a_file_with_a_key_twice_is_refused(text: str, named: tuple[str, ...], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(ValueError, match=r"--config .*own\.yaml: is not YAML; line") as refused:
        compose([str(own)])
    assert all(word in str(refused.value) for word in named)
    with pytest.raises(ValueError, match=r"own\.yaml: is not YAML; line"):
        load_table(str(own))


def test_a_merge_key_and_equal_keys_of_two_mappings_are_no_repetition(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("trainer: &a {max_steps: 3}\nrun: {<<: *a, root: x}\ndata: {init_args: {seed: 1}}\n")
    assert compose([str(own)])["run"] == {"max_steps": 3, "root": "x"}


@pytest.mark.parametrize("option", ["--model.param_groups", "--optimizer", "--data.segments", "--model.schedule"])
def test_an_option_whose_mapping_has_a_key_twice_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}.* b stands there twice"):
        read_line([*LOKO, option, "{a: 1, b: 2, b: 3}"])
    with pytest.raises(ValueError, match="b stands there twice"):
        parse_value("{b: 2, b: 3}")


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        ("run", "checkpoint_every: 3", "save_interval: 4"),
        ("run", "against: [sgd]", "baselines: [sgd]"),
        ("model", "average: 3", "weight_averaging: 3"),
    ],
)
def test_an_option_under_two_names_is_refused(section: str, old: str, new: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(f"{section}: {{{old}, {new}}}\n")
    names = [option.partition(":")[0] for option in (old, new)]
    with pytest.raises(ValueError, match=rf"own\.yaml: {section}\.{names[0]} .* and {section}\.{names[1]} "):
        compose([str(own)])
    given = [f"--{section}.{option.replace(': ', '=')}" for option in (old, new)]
    for order in (given, given[::-1]):
        with pytest.raises(ValueError, match=rf"--{section}\.{names[0]} and --{section}\.{names[1]} are one option"):
            read_line([*LOKO, *order])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"likely": 3}, {"top_k": 3}),
        ({"jacobian": "loop"}, {"vectorize": False}),
        ({"noise": "mode"}, {"update": "posterior_mode"}),
        ({"covariance": "low-rank"}, {"buffer_size": 5}),
    ],
)
def test_an_option_of_an_optimizer_under_two_names_is_refused(old: dict, new: dict, tmp_path: Path) -> None:
    ((name, _),), ((now, _),) = old.items(), new.items()
    message = rf"optimizer\.{name} .* and optimizer\.{now} .* are given"
    with pytest.raises(ValueError, match=message):
        translate_optimizer({**old, **new})
    own = tmp_path / "own.yaml"
    own.write_text(f"optimizer: {{class_path: filtune.EKF, init_args: { ({**old, **new})!r}}}\n".replace("'", ""))
    with pytest.raises(ValueError, match=rf"own\.yaml: {message}"):
        compose([str(own)])
    line = [f"--optimizer.{option}={str(value).lower()}" for option, value in {**old, **new}.items()]
    with pytest.raises(ValueError, match=message):
        read_line([*LOKO, *line])
    assert translate({"optimizer": {"class_path": "own.EKF", "init_args": {**old, **new}}})


def test_an_own_optimizer_has_the_names_that_it_has(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("optimizer: {class_path: own.EKF, init_args: {likely: 1, top_k: 2}}\nrun: {against: [sgd]}\n")
    assert compose([str(own)])["optimizer"]["init_args"] == {"likely": 1, "top_k": 2}
    assert compose([str(own)])["run"] == {"baselines": ["sgd"]}


def test_a_later_place_overrides_an_earlier_one_in_either_name(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("optimizer: {class_path: LoKO, init_args: {max_rows: 3}}\n")
    second.write_text("optimizer: {init_args: {chunk_size: 4}}\n")
    assert compose([str(first), str(second)])["optimizer"]["init_args"] == {"chunk_size": 4}
    assert compose([str(second), str(first)])["optimizer"]["init_args"] == {"chunk_size": 3}
