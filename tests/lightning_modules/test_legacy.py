"""Names of earlier releases are translated, those of one's own classes are not."""

from __future__ import annotations

import pytest
from filtune.lightning_modules.legacy import translate, translate_class_path, translate_key
from filtune.optimizers import EKF, LoKO
from torch import nn


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("optimizers.LoKO", "filtune.LoKO"),
        ("optimizers.loko.LoKO", "filtune.LoKO"),
        ("datamodules.TextDataModule", "filtune.TextDataModule"),
        ("datamodules.text.TextDataModule", "filtune.TextDataModule"),
        ("optimizers.mine.LoKO", "optimizers.mine.LoKO"),
        ("optimizers.Mine", "optimizers.Mine"),
        ("datamodules.MyStream", "datamodules.MyStream"),
        ("mypackage.LoKO", "mypackage.LoKO"),
        ("filtune.LoKO", "filtune.LoKO"),
    ],
)
def test_class_paths(old: str, new: str) -> None:
    assert translate_class_path(old) == new


@pytest.mark.parametrize("path", ["mymod.Rule", "optimizers.mine.Rule"])
def test_options_of_ones_own_optimizer_keep_their_names(path: str) -> None:
    config = {"optimizer": {"class_path": path, "init_args": {"window": 7, "noise": "mode", "floor": 0.2}}}
    assert translate(config) == config


def test_the_original_is_left_alone() -> None:
    config = {"optimizer": {"class_path": "optimizers.LoKO", "init_args": {"max_rows": 3}}, "model": {"average": 5}}
    new = translate(config)
    assert new == {
        "optimizer": {"class_path": "filtune.LoKO", "init_args": {"chunk_size": 3}},
        "model": {"weight_averaging": 5},
    }
    assert config["optimizer"] == {"class_path": "optimizers.LoKO", "init_args": {"max_rows": 3}}
    assert translate(new) == new


@pytest.mark.parametrize("noise", ["softmax", "identity", "annealed", "mode"])
@pytest.mark.parametrize("cls", [LoKO, EKF])
def test_options_that_an_earlier_noise_ignored_are_left_out(cls: type, noise: str) -> None:
    r0 = {} if noise in ("identity", "annealed") else {"r0": 0.0}
    config = {"class_path": f"optimizers.{cls.__name__}", "init_args": {"noise": noise, "beta": 0.9, **r0}}
    options = translate({"optimizer": config})["optimizer"]["init_args"]
    assert not options.keys() & {"beta", "r0"}
    cls(nn.Linear(2, 2).parameters(), **options)


def test_options_of_today_that_a_noise_has_not_are_refused() -> None:
    config = {"optimizer": {"class_path": "filtune.LoKO", "init_args": {"noise": "softmax", "beta": 0.9}}}
    options = translate(config)["optimizer"]["init_args"]
    with pytest.raises(ValueError, match="beta is an option of noise"):
        LoKO(nn.Linear(2, 2).parameters(), **options)


def test_keys() -> None:
    assert translate_key("optimizer.likely") == "optimizer.top_k"
    assert translate_key("model.average") == "model.weight_averaging"
    assert translate_key("run.against") == "run.baselines"
    assert translate_key("data.window") == "data.window"
