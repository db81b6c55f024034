"""Natural gradients and their baselines on padded texts, and what they say of parameters without factors.

That each runs on images is seen by docs/test_commands: every page of an optimizer has such a command.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import only_run, result, run
from tests.conftest import WORDS

SHORT = ["--config", "trainer/cpu", "--seed_everything=0", "--trainer.enable_progress_bar=false"]


def reviews(folder: Path) -> Path:
    path = folder / "reviews.csv"
    rows = [f"{' '.join(WORDS[: 1 + i % 5])} {WORDS[i % 7 + 5]},{'np'[(i // 2) % 2]}" for i in range(24)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def fit(folder: Path, *args: str) -> tuple[dict[str, Any], str]:
    code, text = run(["fit", *SHORT, *args], folder)
    assert code == 0, text
    return result(only_run(folder))[0], text


@pytest.mark.parametrize(
    "optimizer",
    ["ring", "reng", pytest.param("sam", marks=pytest.mark.slow), pytest.param("sophia", marks=pytest.mark.slow)],
)
def test_padded_texts(optimizer: str, tmp_path: Path, tiny_bert: Path) -> None:
    texts = ["--config", "task/own_text", "--config", "backbone/minilm", f"--data.source={reviews(tmp_path)}"]
    backbone = [f"--model.backbone.name={tiny_bert}", "--model.backbone.targets=[query, value]"]
    summary, text = fit(tmp_path, *texts, *backbone, "--config", optimizer, "--data.batch_size=4")
    assert summary["finished"]
    assert math.isfinite(summary["online_loss"])
    assert ("torch's plain attention" in text) == (optimizer == "reng")


def test_several_precisions_and_a_schedule(tmp_path: Path) -> None:
    digits = ["--config", "task/digits", "--config", "backbone/lenet5", "--data.max_samples=32", "--data.batch_size=4"]
    more = ["--trainer.precision=bf16-mixed", "--model.schedule.decay=linear", "--optimizer.damping_schedule=ratio"]
    summary, _ = fit(tmp_path, *digits, "--config", "ring", *more)
    assert math.isfinite(summary["online_loss"])


DORA = ["--config", "task/own_text", "--config", "backbone/minilm_dora", "--data.max_samples=12"]


def test_parameters_without_factors_are_named(tmp_path: Path, tiny_bert: Path) -> None:
    own = [f"--data.source={reviews(tmp_path)}", f"--model.backbone.name={tiny_bert}", "--config", "ring"]
    code, text = run(["fit", *SHORT, *DORA, *own, "--optimizer.unsupported_params=refuse"], tmp_path)
    assert code == 2
    assert "RING: no Kronecker factors for" in text
    assert "lora_magnitude_vector" in text
    assert not list(tmp_path.rglob("summary.json"))
    summary, text = fit(tmp_path, *DORA, *own)
    assert "AdamW updates them" in text
    assert summary["finished"]


def test_a_learning_rate_of_ones_own_for_some_layers(tmp_path: Path, tiny_bert: Path) -> None:
    texts = ["--config", "task/own_text", "--config", "backbone/minilm", f"--data.source={reviews(tmp_path)}"]
    groups = ["--model.param_groups={lora_A: {lr: 0.1}}", f"--model.backbone.name={tiny_bert}"]
    summary, _ = fit(tmp_path, *texts, *groups, "--config", "ngd", "--data.batch_size=4", "--data.max_samples=12")
    assert summary["finished"]
