"""Mistakes are reported in one line that names what to change, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from filtune.exports import export, predict, restore
from filtune.exports.commands import run_export, run_predict
from filtune.exports.export import export as export_run
from filtune.lightning_modules.backbones import BackboneConfig
from PIL import Image

from tests.exports.runs import image_task, run_of, text_task


@pytest.fixture
def text_run(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run that commands find, whatever the checkpoint."""
    run = run_of(BackboneConfig(name=str(encoder), adapter="lora", rank=2), text_task(), tmp_path)
    run.config["optimizer"] = {"class_path": "filtune.AdamW"}
    for module in (export, predict):
        monkeypatch.setattr(module, "restore", lambda *_: run)
    return run


def refused(main: Any, *args: object) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        main([str(arg) for arg in args])
    message = str(error.value)
    assert "\n" not in message
    return message


def checkpoint_of(state: dict[str, Any], **entry: Any) -> dict[str, Any]:
    """A checkpoint of an earlier release with these tensors and this entry of ours."""
    own = {"config": {}, "validation": {}, "rewinds": 0, **entry}
    rest = {"optimizer_states": [], "lr_schedulers": [], "loops": {}, "epoch": 0, "global_step": 0}
    return {"state_dict": state, "filtune": own, **rest}


def test_checkpoint_and_configuration(tmp_path: Path) -> None:
    ckpt = tmp_path / "run" / "checkpoints" / "last.ckpt"
    ask = ("--ckpt_path", ckpt, "--to", tmp_path / "out")
    assert "there is no checkpoint" in refused(run_export, *ask)
    ckpt.parent.mkdir(parents=True)
    ckpt.write_bytes(b"half")
    assert "damaged" in refused(run_export, *ask)
    torch.save({"state_dict": {}}, ckpt)
    assert "not a checkpoint of filtune" in refused(run_export, *ask)
    saved = checkpoint_of({}, fingerprint=0, task=vars(text_task()))
    torch.save(saved, ckpt)
    config = tmp_path / "run" / "config.yaml"
    assert f"{config} is not there" in refused(run_export, *ask)
    config.write_text("[")
    assert f"{config}: is not YAML" in refused(run_export, *ask)
    config.write_text("model: {backbone: {}}")
    assert "it has no optimizer" in refused(run_export, *ask)
    learned = {"class_path": "filtune.AdamW"}, {"class_path": "filtune.TextDataModule"}
    backbone = {"name": str(tmp_path / "gone"), "adapter": "lora"}
    content = {"model": {"backbone": backbone}, "optimizer": learned[0], "data": learned[1]}
    config.write_text(yaml.safe_dump(content))
    message = refused(run_export, *ask)
    assert "there is no folder" in message
    assert "--config" in message
    content["model"]["backbone"]["colour"] = "red"
    config.write_text(yaml.safe_dump(content))
    assert "unknown model.backbone.colour" in refused(run_export, *ask)
    assert not (tmp_path / "out").exists()


def test_checkpoint_of_another_model(encoder: Path, tmp_path: Path) -> None:
    """Other frozen weights, or another adapter."""
    run = run_of(BackboneConfig(name=str(encoder), adapter="lora", rank=2), text_task(), tmp_path)
    run.ckpt_path.parent.mkdir(parents=True)
    trained = {f"backbone.{name}": p for name, p in run.backbone.named_parameters() if p.requires_grad}
    checkpoint = checkpoint_of(trained, fingerprint=1, task=vars(run.task))
    torch.save(checkpoint, run.ckpt_path)
    backbone = {"name": str(encoder), "adapter": "lora", "rank": 2}
    config = {"model": {"backbone": backbone}, "optimizer": {"class_path": "x.Y"}, "data": {"class_path": "x.Y"}}
    file = run.ckpt_path.parents[1] / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="other frozen weights"):
        restore.restore(run.ckpt_path)
    backbone["rank"] = 3
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="another shape"):
        restore.restore(run.ckpt_path)


def test_target(text_run: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("...")
    ask = ("--ckpt_path", "last.ckpt", "--to", mine)
    assert "--overwrite" in refused(run_export, *ask)
    assert "not an earlier export" in refused(run_export, *ask, "--overwrite")
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]
    assert "is a file" in refused(run_export, *ask[:3], mine / "thesis.tex")
    run_export(["--ckpt_path", "last.ckpt", "--to", str(tmp_path / "out")])
    run_export(["--ckpt_path", "last.ckpt", "--to", str(tmp_path / "out"), "--merge", "--overwrite"])
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_failure_leaves_nothing(text_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(export, "write_card", full)
    with pytest.raises(OSError, match="(?i)no space"):
        export_run(text_run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_load_back_is_refused(text_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a method of PEFT does not keep all it has trained."""
    monkeypatch.setattr(export, "_difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="gives other outputs.*--merge"):
        export_run(text_run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "more", "expected"),
    [
        ("text\n", [], "has no rows"),
        ("", [], "cannot be read"),
        ("review,stars\ngood,5\n", [], "--text_columns: .* has no column 'text'; choose from review, stars"),
        ("text,n\ngood,1\n,2\n", [], "row 1 .*empty text.*--on_bad_row skip"),
        ("text\n \n", ["--on_bad_row", "skip"], "no row that can be read"),
        ("text,prediction\ngood,1\n", [], "column 'prediction' already"),
        ("text\ngood\n", ["--output", "new.xlsx"], "--output: .*unknown type"),
        ("text\ngood\n", ["--split", "test"], "no split 'test'"),
        ("text\ngood\n", ["--batch_size", "0"], "--batch_size"),
    ],
)
def test_inputs(
    content: str, more: list[str], expected: str, text_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new.csv").write_text(content)
    with pytest.raises(ValueError, match=expected):
        run_predict(["--ckpt_path", "last.ckpt", "--input", "new.csv", *more])
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_more_inputs(text_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ask = ("--ckpt_path", "last.ckpt")
    assert "--input: dataset file not found" in refused(run_predict, *ask, "--input", "gone.csv")
    assert "one text is needed" in refused(run_predict, *ask, "--text", "a", "b", "c")
    Path("new.csv").write_text("text\ngood\n")
    assert "is the input" in refused(run_predict, *ask, "--input", "new.csv", "--output", tmp_path / "new.csv")


def test_bad_rows_are_left_out(text_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.csv").write_text("text,n\ngood film,1\n,2\nbad,\n")
    run_predict(["--ckpt_path", "x", "--input", str(tmp_path / "new.csv"), "--on_bad_row", "skip"])
    assert pd.read_csv(tmp_path / "new.predictions.csv", dtype=str)["n"].tolist()[0] == "1"
    assert "2 rows" in (said := capsys.readouterr().out)
    assert "new.csv: 3 rows, 2 used, 1 skipped (" in said


def test_bad_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(BackboneConfig(name="lenet5", pretrained=False, adapter=None), image_task((1, 8, 8)), tmp_path)
    run.config["optimizer"] = {"class_path": "filtune.AdamW"}
    monkeypatch.setattr(predict, "restore", lambda *_: run)
    (tmp_path / "new").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "new" / "a.png")
    (tmp_path / "new" / "b.png").write_bytes(b"no image")
    ask = ("--ckpt_path", "last.ckpt", "--input", tmp_path / "new")
    expected = (
        f"undecodable image: {tmp_path / 'new' / 'b.png'}; correct it, or leave bad rows out with --on_bad_row skip"
    )
    assert expected in refused(run_predict, *ask)
    assert "has images" in refused(run_predict, *ask[:2], "--text", "a")
    run_predict([*map(str, ask), "--on_bad_row", "skip"])
    assert [Path(path).name for path in pd.read_csv(tmp_path / "new.predictions.csv")["image"]] == ["a.png"]
