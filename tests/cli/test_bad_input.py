"""Every mistake is one line that names the culprit and the remedy, before any parameter moved."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.harness import run
from tests.conftest import WORDS

DIGITS = ["--config", "trainer/cpu", "--config", "task/digits", "--config", "backbone/lenet5", "--data.max_samples=8"]
DIGITS += ["--data.max_val_samples=8"]
LOKO = ["--config", "optimizer/loko"]
TEXT = ["--config", "trainer/cpu", "--config", "task/own_text", "--config", "backbone/minilm"]

# what parsing alone finds is in test_messages, and every argument of the optimizers in tests/optimizers
DIGIT_MISTAKES = {
    "unknown key": (["--trainer.nonsense=1"], "nonsense"),
    "p0 zero": (["--optimizer.p0=0"], "--optimizer.p0: must be positive"),
    "half precision by scaling": (["--trainer.precision=16-mixed"], "bf16-mixed"),
    "batch of none": (["--data.batch_size=0"], "batch_size"),
    "a schedule for a filter": (["--model.schedule.decay=linear"], "LoKO has no learning rate"),
    "a group of nothing": (["--model.param_groups={nowhere: {p0: 1.0}}"], "'nowhere' matches no trainable parameter"),
    "an option no optimizer has": (["--model.param_groups={fc1: {p0: -1.0}}"], "fc1: p0: must be positive"),
    "a checkpoint that is not there": (["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
    "checkpoints never": (["--run.save_interval=0"], "run.save_interval"),
    "texts for an image backbone": (["--model.backbone.library=transformers"], "images"),
    "an adapter on nothing": (["--model.backbone.adapter=lora", "--model.backbone.targets=[nowhere]"], "'nowhere'"),
    "no such timm model": (["--model.backbone.name=resnet1"], "resnet1"),
    "no damping": (["--optimizer=RING", "--optimizer.rho=0"], "--optimizer.rho: must be positive"),
    "an unknown inverse": (
        ["--optimizer=RENG", "--optimizer.inverse_method=lu"],
        "--optimizer.inverse_method: must be one of",
    ),
}


def refused(args: list[str], folder: Path, culprit: str) -> None:
    """Assert that a command fails with one line that names the culprit, and leaves no result."""
    code, text = run(args, folder)
    lines = text.strip().splitlines()
    assert code == 2, text
    assert len(lines) == 1, text
    assert lines[0].startswith("filtune: error: ")
    assert culprit in lines[0]
    for left in ("summary.json", "last.ckpt", "config.yaml"):
        assert not list(folder.rglob(left))


@pytest.mark.parametrize("mistake", DIGIT_MISTAKES)
def test_digits(mistake: str, tmp_path: Path) -> None:
    arguments, culprit = DIGIT_MISTAKES[mistake]
    refused(["fit", *DIGITS, *LOKO, *arguments], tmp_path, culprit)


ROWS = [f"{WORDS[i % 9]} film,{'np'[i % 2]}" for i in range(20)]

FILE_MISTAKES = {
    "label missing": ([*ROWS[:5], "fine film,", *ROWS[5:]], "row 5"),
    "text empty": ([*ROWS[:7], "   ,n", *ROWS[7:]], "row 7"),
}


@pytest.mark.parametrize("mistake", FILE_MISTAKES)
def test_rows_are_named_and_may_be_skipped(mistake: str, tmp_path: Path, tiny_bert: Path) -> None:
    rows, culprit = FILE_MISTAKES[mistake]
    data = tmp_path / "reviews.csv"
    data.write_text("text,label\n" + "\n".join(rows) + "\n")
    command = ["fit", *TEXT, *LOKO, f"--data.source={data}", f"--model.backbone.name={tiny_bert}"]
    refused(command, tmp_path, culprit)
    code, text = run([*command, "--data.on_bad_row=skip"], tmp_path)
    assert code == 0, text
    (summary,) = tmp_path.rglob("summary.json")
    assert '"skipped_rows": {\n' in summary.read_text()


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--data.source=nowhere.csv"], "nowhere.csv"),
        (["--data.source=some-organisation/some-data"], "some-organisation/some-data"),
        (["--model.backbone.name=./nowhere"], "./nowhere"),
        (["--data.classes=[n, x]"], "row 1"),
    ],
)
def test_sources(arguments: list[str], culprit: str, tmp_path: Path, tiny_bert: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = tmp_path / "reviews.csv"
    data.write_text("text,label\n" + "\n".join(ROWS) + "\n")
    source = [f"--data.source={data}", f"--model.backbone.name={tiny_bert}"]
    refused(["fit", *TEXT, *LOKO, *source, *arguments], tmp_path, culprit)


def test_damaged_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"PK\x03\x04 not really")
    code, text = run(["fit", *DIGITS, *LOKO, f"--ckpt_path={tmp_path / 'last.ckpt'}"], tmp_path)
    assert code == 2
    assert "last.ckpt is damaged or not a checkpoint of filtune" in text.strip().splitlines()[-1]


EXPLODING = ["--config", "optimizer/loko_logits", "--optimizer.p0=20", "--optimizer.divergence_threshold=1.1"]
"""With so low a limit, a step that overshoots is an explosion: a network this small hardly has a real one."""
OVERFLOWING = ["--config", "optimizer/sgd", "--optimizer.lr=1e30"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (OVERFLOWING, "non-finite gradients: the optimizer diverges"),
        (EXPLODING, r"the filter diverged at step \d: .* take a smaller --optimizer.p0"),
    ],
)
def test_divergence_stops_the_run(arguments: list[str], said: str, tmp_path: Path) -> None:
    code, text = run(["fit", *DIGITS, *arguments, "--trainer.log_every_n_steps=4"], tmp_path)
    assert code == 3
    assert re.search(said, text.strip().splitlines()[-1])
    assert not list(tmp_path.rglob("summary.json"))


def test_divergence_can_be_taken_back(tmp_path: Path) -> None:
    arguments = ["--trainer.log_every_n_steps=1", "--model.on_divergence=rewind"]
    code, text = run(["fit", *DIGITS, *EXPLODING, *arguments], tmp_path)
    assert code == 0
    assert "parameters and state are restored to those of step 0" in " ".join(text.split())
    assert json.loads(next(tmp_path.rglob("summary.json")).read_text())["rewinds"] >= 1


def test_divergence_that_comes_back_stops_in_the_end(tmp_path: Path) -> None:
    arguments = [*OVERFLOWING, "--trainer.log_every_n_steps=1", "--model.on_divergence=rewind"]
    code, text = run(["fit", *DIGITS, *arguments, "--data.max_samples=40"], tmp_path)
    assert code == 3
    assert "diverged again after 10 rollbacks" in text.strip().splitlines()[-1]


def test_a_full_covariance_too_large_is_refused_with_its_size(tmp_path: Path) -> None:
    """Eleven million parameters, squared, are more than any machine of today holds."""
    resnet = ["--config", "backbone/resnet18", "--model.backbone.pretrained=false", "--model.backbone.adapter=null"]
    refused(["fit", *DIGITS, *resnet, "--config", "optimizer/ekf_full"], tmp_path, " GiB")


@pytest.mark.parametrize(
    ("option", "culprit"),
    [
        ("--data.task=multilable", "--data.task: there is no task of the kind 'multilable'; choose from"),
        ("--data.text_columns=[a,b,c]", "--data.text_columns: one or two columns are needed, there are 3"),
    ],
)
def test_what_a_data_module_refuses_is_said_without_a_frame(option: str, culprit: str, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("text,label\na,1\nb,0\n")
    arguments = ["--config", "task/own_text", "--config", "backbone/minilm", "--data.source=own.csv", option]
    refused(["fit", "--config", "trainer/cpu", *arguments, *LOKO], tmp_path, f"filtune: error: {culprit}")
