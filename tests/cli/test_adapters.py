"""Adapters from the command line: DoRA learns from texts and images, and unsupported ones are refused in one line."""

from __future__ import annotations

from pathlib import Path

from tests.cli.test_bad_input import refused
from tests.cli.test_fit import fit

DIGITS = ["--config", "trainer/cpu", "--config", "task/digits", "--config", "optimizer/loko", "--data.max_samples=12"]
LENET = ["--config", "backbone/lenet5", "--model.backbone.targets=[conv, fc1]", "--model.backbone.rank=2"]


def test_dora_on_texts(tiny_glue: Path, tiny_bert: Path, tmp_path: Path) -> None:
    configs = ["trainer/cpu", "task/sst2", "backbone/minilm_dora", "optimizer/loko"]
    options = [f"--data.source={tiny_glue}", f"--model.backbone.name={tiny_bert}", "--data.max_samples=12"]
    summary = fit(tmp_path, *[part for config in configs for part in ("--config", config)], *options)
    head, lora, magnitude = 2 * 16 + 2, 2 * 2 * 8 * 16, 2 * 16
    assert summary["trainable_parameters"] == head + lora + magnitude


def test_dora_on_convolutions(tmp_path: Path) -> None:
    """Two samples at a time, so that the layers' captured passes matter."""
    summary = fit(tmp_path, *DIGITS, *LENET, "--model.backbone.adapter=dora", "--data.batch_size=2")
    convolutions = 2 * (25 + 6) + 6 + 2 * (150 + 16) + 16
    assert summary["trainable_parameters"] == convolutions + 2 * (400 + 120) + 120 + 850
    assert summary["steps"] == 6


def test_what_cannot_work_is_reported_in_one_line(tmp_path: Path) -> None:
    """Which methods those are is seen by lightning_modules/test_adapters."""
    arguments = ["--model.backbone.adapter=osf", "--model.backbone.targets=[fc1]"]
    refused(["fit", *DIGITS, *LENET, *arguments], tmp_path, "whose gradient a hook replaces")
