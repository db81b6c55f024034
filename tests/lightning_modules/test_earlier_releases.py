"""Checkpoints of earlier releases: their names and the options they lack are understood, real differences refused."""

from __future__ import annotations

import json
import shutil
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filtune.exports.restore import restore
from filtune.lightning_modules import CheckpointError, OnlineModule, legacy
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO, compare_configs
from filtune.lightning_modules.defaults import with_defaults
from safetensors.torch import load_file, save_file

from filtune.cli import main
from tests.cli.harness import as_earlier, only_run, run

OLD: dict[str, Any] = {
    "seed_everything": 0,
    "model": {"backbone": {"name": "lenet5", "pretrained": False}, "average": 4},
    "data": {"class_path": "datamodules.DigitsDataModule", "init_args": {"max_samples": 8}},
    "optimizer": {
        "class_path": "optimizers.LoKO",
        "init_args": {"explode": 50.0, "jacobian": "loop", "max_rows": 7},
    },
    "run": {"against": ["adamw"], "checkpoint_every": 4},
}
NEW: dict[str, Any] = {
    "seed_everything": 0,
    "model": {"backbone": {"name": "lenet5", "pretrained": False, "rank": 8}, "weight_averaging": 4},
    "data": {"class_path": "filtune.DigitsDataModule", "init_args": {"max_samples": 8, "batch_size": 1}},
    "optimizer": {
        "class_path": "filtune.LoKO",
        "init_args": {"divergence_threshold": 50.0, "vectorize": False, "chunk_size": 7, "p0": 0.2},
    },
    "run": {"baselines": [], "save_interval": 9},
}


def changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The configuration with another value at a dotted path."""
    first, _, rest = path.partition(".")
    return {**config, first: changed(config[first], rest, value) if rest else value}


def test_old_names_and_defaults_are_the_same_configuration() -> None:
    compare_configs(OLD, NEW, model=OnlineModule)
    compare_configs(NEW, OLD, model=OnlineModule)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer.init_args.chunk_size", 8),
        ("optimizer.init_args.p0", 0.3),
        ("model.backbone.rank", 4),
        ("model.weight_averaging", 5),
        ("model.schedule", {"decay": "linear"}),
        ("data.init_args.batch_size", 2),
        ("data.class_path", "filtune.TextDataModule"),
        ("seed_everything", 1),
    ],
)
def test_a_difference_is_named_whatever_the_names(path: str, value: Any) -> None:
    for configs in ((OLD, changed(NEW, path, value)), (changed(NEW, path, value), OLD)):
        with pytest.raises(CheckpointError, match=f"contradicts the checkpoint: .*{path}"):
            compare_configs(*configs, model=OnlineModule)


def test_an_option_left_out_has_the_default_of_its_class() -> None:
    stream = {"class_path": "filtune.ChangingDataModule", "init_args": {"streams": [NEW["data"]], "segments": [{}]}}
    full = with_defaults({**NEW, "data": stream}, OnlineModule)
    assert full["model"]["schedule"] == {"decay": "none", "warmup": 0}
    assert full["model"]["backbone"]["targets"] == ["query"]
    assert full["trainer"]["precision"] == "32-true"
    assert full["data"]["init_args"]["streams"][0]["init_args"]["val_batch_size"] == 64
    assert full["data"]["init_args"]["segments"][0]["rotate"] == 0.0
    assert full["optimizer"]["init_args"]["beta"] == 0.95
    assert with_defaults(full, OnlineModule) == full


def test_a_class_that_is_not_there_is_compared_as_it_is() -> None:
    other = changed(NEW, "optimizer", {"class_path": "gone.Rule", "init_args": {"a": 1}})
    compare_configs(other, other)
    with pytest.raises(CheckpointError, match=r"optimizer.init_args.a \(checkpoint 1, now None\)"):
        compare_configs(other, changed(NEW, "optimizer", {"class_path": "gone.Rule"}))


def to_old_names(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of today as an earlier release wrote it."""
    values = {next(iter(new.items())): old for old, new in legacy.OPTIMIZER_VALUES.items() if len(new) == 1}
    names = {new: old for old, new in legacy.OPTIMIZER_OPTIONS.items()}
    options = {}
    for name, value in config["optimizer"]["init_args"].items():
        old = values.get((name, value)) if isinstance(value, bool | str) else None
        options |= dict([old]) if old else {names.get(name, name): value}
    sections = {}
    for section, table in (("model", legacy.MODEL_OPTIONS), ("run", legacy.RUN_OPTIONS)):
        back = {new: old for old, new in table.items()}
        sections[section] = {back.get(name, name): value for name, value in config[section].items()}
    del sections["model"]["checksum_every"]  # as if the option had been added since
    rule = {"class_path": config["optimizer"]["class_path"].replace("filtune.", "optimizers."), "init_args": options}
    data = {**config["data"], "class_path": config["data"]["class_path"].replace("filtune.", "datamodules.")}
    return {**config, **sections, "optimizer": rule, "data": data}


def test_a_run_of_an_earlier_release_is_resumed_validated_and_exported(tmp_path: Path) -> None:
    configs = ("trainer/cpu", "task/digits", "backbone/lenet5", "optimizer/loko")
    arguments = [f"--config={name}" for name in configs] + [
        "--data.max_samples=12",
        "--data.max_val_samples=20",
        "--trainer.enable_progress_bar=false",
        "--model.weight_averaging=5",
    ]
    code, text = run(["fit", *arguments], tmp_path)
    assert code == 0, text
    folder = only_run(tmp_path)
    path, io = folder / "checkpoints" / "last.ckpt", AtomicCheckpointIO()
    checkpoint, config = io.load_checkpoint(path), yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(to_old_names(config)))
    own = checkpoint["filtune"]
    mean = own.pop("weight_averaging")
    io.save_checkpoint({**checkpoint, "filtune": {**own, "config": to_old_names(own["config"]), "average": mean}}, path)
    assert "optimizers.LoKO" in (folder / "config.yaml").read_text()

    restored = restore(path)
    for name, param in restored.backbone.named_parameters():
        assert torch.equal(param, mean["mean"][name])
    code, text = run(["export", "--ckpt_path", str(path), "--to", "out", "--merge"], tmp_path)
    assert code == 0, text
    code, text = run(["validate", *arguments, f"--ckpt_path={path}"], tmp_path)
    assert code == 0, text
    code, text = run(["fit", *arguments, "--trainer.max_epochs=2", f"--ckpt_path={path}"], tmp_path)
    assert code == 0, text
    code, text = run(["fit", *arguments, "--optimizer.p0=0.3", f"--ckpt_path={path}"], tmp_path)
    assert code == 2
    assert "optimizer.init_args.p0 (checkpoint 0.2, now 0.3)" in text


def test_a_module_that_an_earlier_release_left_frozen_at_random(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pooler of ``head: own`` was neither trained nor saved; now it is, and that is the reason of the refusal."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bert, "encoder")
    weights = load_file("encoder/model.safetensors")
    save_file({k: v for k, v in weights.items() if "pooler" not in k}, "encoder/model.safetensors", {"format": "pt"})
    Path("reviews.csv").write_text("text,label\n" + "good film,p\nbad film,n\n" * 6)
    command = [
        "fit", "--config=trainer/cpu", "--config=task/own_text", "--config=backbone/minilm", "--config=optimizer/sgd",
        "--data.source=reviews.csv", "--data.val_fraction=0.2", "--model.backbone.name=encoder",
        "--model.backbone.head=own", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    main(command)
    path = only_run(tmp_path) / "checkpoints" / "last.ckpt"
    checkpoint = as_earlier(torch.load(path, weights_only=True))
    pooler = [name for name in checkpoint["state_dict"] if "pooler" in name]
    assert len(pooler) == 2
    for name in pooler:
        del checkpoint["state_dict"][name]
    torch.save(checkpoint, path)
    for args in ([*command, "--ckpt_path=last", "--trainer.max_epochs=2"], ["export", f"--ckpt_path={path}", "--to=m"]):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(args)
        (line,) = [text for text in capsys.readouterr().err.splitlines() if "filtune: error" in text]
        assert "pooler.dense" in line
        assert "and 1 more" in line
        assert "an earlier release, which neither trained nor saved what the backbone has no weights of" in line
        assert "start a new run" in line


@dataclass
class Part:
    """A part of a rule."""

    size: int = 2


PART = Part(3)


class Rule:
    """A rule with options of several kinds."""

    def __init__(
        self,
        pair: tuple[int, int] = (1, 2),
        part: Part = PART,
        maybe: Part | None = None,
        many: list[Part] | None = None,
        kind: type = int,
        needed: str = ...,  # type: ignore[assignment]
    ) -> None:
        raise AssertionError  # nothing is built


def test_what_a_file_cannot_hold_is_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is written with the same defaults by which checkpoints are compared."""

    monkeypatch.setitem(sys.modules, "own_rule", types.SimpleNamespace(Rule=Rule, Alias=Rule))
    section = {"class_path": "own_rule.Alias", "init_args": {"needed": "x", "many": [{}]}}
    filled = with_defaults({"optimizer": section, "trainer": {"max_epochs": 3}})
    assert filled["optimizer"]["init_args"] == {
        "pair": [1, 2], "part": {"size": 3}, "maybe": {"size": 2}, "many": [{"size": 2}], "needed": "x",
    }  # fmt: skip
    assert filled["optimizer"]["class_path"] == "own_rule.Alias"
    assert filled["trainer"] == {"max_epochs": 3, "precision": "32-true"}
    assert json.loads(json.dumps(filled)) == filled
    whole = with_defaults({"optimizer": section}, by_module=True)["optimizer"]
    assert whole["class_path"] == f"{Rule.__module__}.{Rule.__qualname__}"


@pytest.mark.parametrize("precision", [None, "32-true"])
def test_a_precision_that_is_null_is_lightnings(precision: str | None) -> None:
    compare_configs({**NEW, "trainer": {"precision": precision}}, NEW, model=OnlineModule)
    with pytest.raises(CheckpointError, match=r"trainer.precision \(checkpoint '32-true', now 'bf16-mixed'\)"):
        compare_configs(
            {**NEW, "trainer": {"precision": precision}}, {**NEW, "trainer": {"precision": "bf16-mixed"}},
            model=OnlineModule,
        )  # fmt: skip
