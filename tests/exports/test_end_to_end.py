"""Own texts: fit, export, load, predict, and all agree; likewise without a text model, and with a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filtune.exports.commands import run_export, run_predict
from filtune.exports.restore import restore
from transformers import pipeline

from tests.cli.harness import as_earlier, only_run, run
from tests.conftest import WORDS

CPU = ["--config", "trainer/cpu"]
MODEL = ["--config", "backbone/minilm", "--model.backbone.rank=2", "--model.backbone.max_length=16"]
TEXT = [*CPU, *MODEL, "--config", "task/own_text", "--data.text_columns=[text]"]
DIGITS = [*CPU, "--config", "task/digits", "--config", "backbone/lenet5", "--data.max_samples=20"]


def fit(folder: Path, *args: str) -> Path:
    code, said = run(["fit", *args], folder)
    assert code == 0, said
    return only_run(folder) / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 texts of two classes, one of them with a comma, a quote and a line break."""
    rows = [{"text": f"{WORDS[i % 19]} {WORDS[(7 * i) % 19]}", "label": "good" if i % 3 else "bad"} for i in range(19)]
    file = tmp_path_factory.mktemp("data") / "reviews.csv"
    pd.DataFrame([*rows, {"text": 'a "plot",\nNA', "label": "bad"}]).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def text_run(reviews: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filter's run on them."""
    args = [*TEXT, f"--data.source={reviews}", f"--model.backbone.name={encoder}", "--config", "optimizer/loko"]
    return fit(tmp_path_factory.mktemp("text"), *args)


def test_fit_export_load_predict(text_run: Path, reviews: Path, tmp_path: Path) -> None:
    """The pipeline from either folder says what ``predict`` writes."""
    run_export(["--ckpt_path", str(text_run), "--to", str(tmp_path / "model"), "--merge"])
    run_predict(["--ckpt_path", str(text_run), "--input", str(reviews), "--output", str(tmp_path / "out.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == list(pd.read_csv(reviews, keep_default_na=False)["text"])
    said = pipeline("text-classification", model=str(tmp_path / "model"))([row["text"] for row in rows], top_k=None)
    for row, found in zip(rows, said, strict=True):
        assert found[0]["label"] == row["prediction"]
        for entry in found:
            # the merged weights and the padding: a few float32 roundings of logits below 10
            assert row[f"probability_{entry['label']}"] == pytest.approx(entry["score"], abs=1e-5)
    summary = json.loads((text_run.parents[1] / "summary.json").read_text())
    assert f"| online accuracy | {summary['online_accuracy']:.4g} |" in (tmp_path / "model/README.md").read_text()


def test_the_task_needs_no_data(text_run: Path) -> None:
    """It is in the checkpoint; an older one has the data read."""
    task = restore(text_run).task
    assert (task.kind, task.classes, task.outputs) == ("classification", ("bad", "good"), 2)
    checkpoint = torch.load(text_run, weights_only=True)
    del checkpoint["filtune"]["task"]
    old = text_run.with_name("old.ckpt")
    torch.save(as_earlier(checkpoint), old)
    assert restore(old).task == task


def test_columns(text_run: Path, reviews: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_predict(["--ckpt_path", str(text_run), "--input", str(reviews)])
    output = reviews.with_name("reviews.predictions.csv")
    table = pd.read_csv(output, keep_default_na=False)
    p, bayes = table["probability_good"], table["probability_bayes_good"]
    assert list(table) == [
        "text", "label", "prediction", "probability_bad", "probability_good",
        "logit_std", "probability_bayes_bad", "probability_bayes_good",
    ]  # fmt: skip
    assert (table["logit_std"] > 0).all()
    assert ((p - 0.5).abs() >= (bayes - 0.5).abs()).all()  # averaged over the posterior: closer to even
    assert ((p > 0.5) == (table["prediction"] == "good")).all()
    assert "20 rows" in capsys.readouterr().out
    run_predict(["--ckpt_path", str(text_run), "--text", table["text"][0]])
    assert f"prediction: {table['prediction'][0]}" in capsys.readouterr().out


def test_first_order_has_no_uncertainty(
    reviews: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*TEXT, f"--data.source={reviews}", f"--model.backbone.name={encoder}", "--config", "optimizer/adamw_1e-3"]
    args += ["--model.backbone.head=own", "--model.backbone.pretrained=false"]
    ckpt = fit(tmp_path, *args)
    run_predict(["--ckpt_path", str(ckpt), "--input", str(reviews), "--output", str(tmp_path / "out.parquet")])
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert [name for name in table if "std" in name or "bayes" in name] == []
    assert capsys.readouterr().out.count("no covariance") == 1
    run_export(["--ckpt_path", str(ckpt), "--to", str(tmp_path / "adapter")])
    assert (tmp_path / "adapter" / "base" / "model.safetensors").exists()  # it was random


def test_digits(tmp_path: Path) -> None:
    """No adapter, built-in data without columns; a folder of images is predicted."""
    from PIL import Image

    ckpt = fit(tmp_path, *DIGITS, "--config", "optimizer/loko")
    run_export(["--ckpt_path", str(ckpt), "--to", str(tmp_path / "model")])
    assert (tmp_path / "model" / "model.safetensors").exists()
    (tmp_path / "new").mkdir()
    for name in ("a", "b"):
        Image.new("L", (8, 8), 100).save(tmp_path / "new" / f"{name}.png")
    run_predict(["--ckpt_path", str(ckpt), "--input", str(tmp_path / "new")])
    table: Any = pd.read_csv(tmp_path / "new.predictions.csv")
    assert [Path(path).name for path in table["image"]] == ["a.png", "b.png"]
    assert table.filter(like="probability_bayes").sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-5)
