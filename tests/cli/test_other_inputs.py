"""What a checkpoint was trained on besides weights: classes in their order, tokenizer, configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from filtune.exports.restore import restore
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO, check_inputs, check_task
from filtune.lightning_modules.integrity import DamagedFile, read_yaml
from filtune.lightning_modules.resume import kept_baseline
from filtune.lightning_modules.yaml_loader import load_yaml

from filtune import cli

FIT = (
    "fit --config trainer/cpu --trainer.enable_progress_bar false --config task/own_text --config optimizer/adamw_1e-3"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> tuple[Path, Path, Path]:
    """The folder of a run, its backbone's folder and its data."""
    folder = tmp_path_factory.mktemp("inputs")
    backbone, data = folder / "backbone", folder / "data.csv"
    shutil.copytree(tiny_bert, backbone)
    data.write_text("text,label\n" + "".join(f"good film {i},{'neg' if i % 2 else 'pos'}\n" for i in range(12)))
    model = f"--model.backbone.name={backbone} --model.backbone.adapter=lora --model.backbone.head=mean"
    cli.main([*FIT.split(), *model.split(), f"--data.source={data}", f"--run.root={folder / 'runs'}"])
    (checkpoint,) = (folder / "runs").rglob("last.ckpt")
    return checkpoint.parents[1], backbone, data


@pytest.mark.parametrize(
    ("file", "change", "culprit"),
    [
        ("config.json", lambda c: {**c, "num_attention_heads": 1}, "num_attention_heads"),
        ("config.json", lambda c: {**c, "hidden_act": "relu"}, "hidden_act"),
        ("config.json", lambda c: {**c, "layer_norm_eps": 0.1}, "layer_norm_eps"),
    ],
)
def test_another_configuration_of_the_backbone_is_refused(run, file, change, culprit, tmp_path: Path) -> None:
    folder, backbone, _ = run
    path = backbone / file
    before = path.read_bytes()
    path.write_text(json.dumps(change(json.loads(before))))
    try:
        with pytest.raises(ValueError, match=f"reads its inputs otherwise: {culprit}"):
            restore(folder)
    finally:
        path.write_bytes(before)
    restore(folder)


def test_other_tokens_are_refused(run) -> None:
    folder, backbone, _ = run
    path = backbone / "tokenizer.json"
    before = path.read_text()
    content = json.loads(before)
    vocabulary = content["model"]["vocab"]
    ids = dict(zip(vocabulary, [*list(vocabulary.values())[:5], *list(vocabulary.values())[5:][::-1]], strict=True))
    path.write_text(json.dumps({**content, "model": {**content["model"], "vocab": ids}}))
    try:
        with pytest.raises(ValueError, match="reads its inputs otherwise: tokens has other values"):
            restore(folder)
    finally:
        path.write_text(before)


def test_other_classes_are_refused_by_validate(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _, data = run
    other = tmp_path / "other.csv"
    other.write_text(data.read_text().replace(",neg", ",zebra"))
    for more in ([f"--data.source={other}"], ["--data.classes=[pos, neg]"]):
        with pytest.raises(SystemExit):
            cli.main(["validate", f"--ckpt_path={folder}", "--trainer.enable_progress_bar=false", *more])
        said = capsys.readouterr().err.splitlines()[-1]
        assert "is of the classes neg, pos, the data has" in said
        assert "--data.classes" in said


def test_weights_that_are_not_finite_are_refused(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _, _ = run
    shutil.copytree(folder, tmp_path / "run")
    path, files = tmp_path / "run" / "checkpoints" / "last.ckpt", AtomicCheckpointIO()
    checkpoint = files.load_checkpoint(path)
    name = next(name for name in checkpoint["state_dict"] if "head" in name)
    checkpoint["state_dict"][name] = torch.full_like(checkpoint["state_dict"][name], torch.nan)
    files.save_checkpoint({k: v for k, v in checkpoint.items() if k != "filtune_contents"}, path)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["export", f"--ckpt_path={tmp_path / 'run'}", f"--to={tmp_path / 'model'}"])
    assert "is not finite, the run has diverged" in capsys.readouterr().err.splitlines()[-1]


def test_checkpoints_of_earlier_releases_and_other_versions_pass() -> None:
    check_inputs({}, {"mean": [0.5]}, "name")
    check_inputs({"gone": 1, "mean": [0.5]}, {"mean": [0.5], "new": 2}, "name")
    check_task(None, "classification", ["a"])


@pytest.mark.parametrize("place", ["../../../elsewhere/project", "../../..", "/tmp/elsewhere/project"])
def test_a_baseline_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "runs" / "task" / "LoKO-seed0" / "version_0"
    folder.mkdir(parents=True)
    (tmp_path / "runs" / "elsewhere" / "project").mkdir(parents=True)
    (folder / "baselines.json").write_text(json.dumps({"adamw": place}))
    with pytest.raises(DamagedFile, match="baselines.json: adamw is not in a folder beside the run's"):
        kept_baseline(folder, "adamw")


@pytest.mark.parametrize(
    "text",
    ["a: &a [x]\nb: &b [*a, *a]\n", "data: &a {init_args: *a}\n", "run: {baselines: &a [*a]}\n"],
)
def test_aliases_that_multiply_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path}.*the alias .* stands within an anchor"):
        load_yaml(path, str(path))


def test_an_alias_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: &a [x]\nb: *a\n")
    assert load_yaml(path, "")[1] == {"a": ["x"], "b": ["x"]}


def test_keys_are_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("1: 2\n")
    with pytest.raises(DamagedFile, match="it has the key 1"):
        read_yaml(path)
    with pytest.raises(SystemExit):
        cli.main(["fit", f"--config={path}"])
    assert f"--config {path}: 1 is no key" in capsys.readouterr().err
