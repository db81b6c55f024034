"""What a run leaves, on every kind of task."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cli.harness import only_run, run
from tests.conftest import WORDS

DIGITS = [
    "--config",
    "trainer/cpu",
    "--config",
    "task/digits",
    "--config",
    "backbone/lenet5",
    "--data.max_val_samples=40",
]
SHORT = ["--data.max_samples=60", "--trainer.log_every_n_steps=20", "--run.save_interval=25"]
KEYS = {
    "optimizer", "task", "backbone", "seed", "samples", "steps", "online_accuracy", "online_loss", "val",
    "trainable_parameters", "seconds_per_step", "mean_seconds_per_step", "seconds_per_step_wall", "peak_memory_bytes",
    "versions", "commit", "finished",
}  # fmt: skip


def fit(folder: Path, *args: str) -> dict[str, Any]:
    """Run a fit and read its summary."""
    code, text = run(["fit", *args], folder)
    assert code == 0, text
    return json.loads((only_run(folder) / "summary.json").read_text())


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    fit(folder, *DIGITS, *SHORT, "--config", "optimizer/loko")
    return only_run(folder)


def test_summary(digits_run: Path) -> None:
    summary = json.loads((digits_run / "summary.json").read_text())
    assert set(summary) >= KEYS
    assert (summary["optimizer"], summary["task"], summary["backbone"]) == ("LoKO", "digits", "lenet5")
    assert summary["samples"] == summary["steps"] == 60
    assert summary["trainable_parameters"] == 61_706
    assert 0 <= summary["online_accuracy"] <= 100
    assert summary["finished"] is True


def test_online_accuracy_is_of_predictions_made_before_the_update(digits_run: Path) -> None:
    """The same stream, model and filter in a plain loop predict the same."""
    from filtune.datamodules import DigitsDataModule
    from filtune.lightning_modules import BackboneConfig, build_backbone
    from filtune.optimizers import Categorical, LoKO
    from lightning.pytorch import seed_everything

    seed_everything(0)
    data = DigitsDataModule(max_samples=60, seed=0)
    data.setup()
    backbone = build_backbone(BackboneConfig(), data.task)
    optimizer = LoKO(backbone.parameters()).attach(backbone)
    right, loss = 0, 0.0
    for batch in data.train_dataloader():
        inputs, y = backbone.preprocess(batch), batch["label"]
        with torch.no_grad():
            before = backbone(inputs)
        right += int(before.argmax(-1) == y)
        loss += float(torch.nn.functional.cross_entropy(before, y))
        optimizer.step(lambda inputs=inputs, y=y: Categorical(backbone(inputs)).observe(y))
    summary = json.loads((digits_run / "summary.json").read_text())
    assert summary["online_accuracy"] == pytest.approx(100 * right / 60)
    assert summary["online_loss"] == pytest.approx(loss / 60, rel=1e-4)


def test_tensorboard_page(digits_run: Path) -> None:
    events = EventAccumulator(str(digits_run), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    stats = {
        "innovation_norm",
        "update_norm",
        "gain_norm",
        "noise_trace",
        "variance_min",
        "variance_mean",
        "cholesky_retries",
    }
    expected = {"online/accuracy", "online/top5", "online/loss", "val/accuracy", "val/loss"}
    assert set(tags["scalars"]) >= expected | {f"stats/{name}" for name in stats}
    assert not any(tag == "epoch" or tag.startswith("final/") for tag in tags["scalars"]), "charts of one point"
    assert all(events.summary_metadata[tag].summary_description for tag in tags["scalars"])
    assert [event.step for event in events.Scalars("online/accuracy")] == [20, 40, 60]
    assert "config/text_summary" in tags["tensors"]
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "p0: 0.2" in text
    assert any("custom_scalars" in tag for tag in tags["tensors"])


def test_learning_rate_is_logged(tmp_path: Path) -> None:
    fit(tmp_path, *DIGITS, *SHORT, "--config", "optimizer/adamw")
    events = EventAccumulator(str(only_run(tmp_path)))
    events.Reload()
    rates = [event.value for event in events.Scalars("stats/lr")]
    assert rates == pytest.approx([1e-4 * 40 / 60, 1e-4 * 20 / 60, 0], abs=1e-9)


def test_config_repeats_the_run(digits_run: Path, tmp_path: Path) -> None:
    first = json.loads((digits_run / "summary.json").read_text())
    again = fit(tmp_path, "--config", str(digits_run / "config.yaml"))
    assert {k: v for k, v in again.items() if "online" in k or k == "val"} == {
        k: v for k, v in first.items() if "online" in k or k == "val"
    }


def test_validate_reports_the_tasks_own_metric(digits_run: Path, tmp_path: Path) -> None:
    checkpoint = digits_run / "checkpoints" / "last.ckpt"
    code, text = run(["validate", "--config", str(digits_run / "config.yaml"), f"--ckpt_path={checkpoint}"], tmp_path)
    assert code == 0, text
    accuracy = json.loads((digits_run / "summary.json").read_text())["val"]["accuracy"]
    printed = re.search(r"^val accuracy (\S+), val loss \S+$", text, re.MULTILINE)
    assert printed, text
    assert float(printed[1]) == pytest.approx(accuracy, rel=5e-5)  # five digits
    assert text.count("data digits: 1797 rows, ") == 1
    assert "Validate metric" not in text
    assert not list(tmp_path.iterdir())


def test_rivals_learn_from_the_same_stream(tmp_path: Path) -> None:
    more = ["--data.max_samples=8", "--config", "optimizer/loko", "--run.baselines=[adamw, sgd]"]
    code, text = run(["fit", *DIGITS, *more], tmp_path)
    assert code == 0, text
    summaries = {json.loads(path.read_text())["optimizer"] for path in tmp_path.rglob("summary.json")}
    assert summaries == {"LoKO", "AdamW", "SGD"}
    for name in ("LoKO", "AdamW", "SGD", "tensorboard --logdir"):
        assert name in text


@pytest.mark.parametrize(
    ("task", "optimizer", "scores"),
    [
        ("sst2", "loko", {"accuracy"}),
        pytest.param("cola", "adagrad", {"matthews", "accuracy"}, marks=pytest.mark.slow),  # test_metrics has its score
        ("mrpc", "loko_logits", {"accuracy", "f1"}),
        ("stsb", "loko", {"pearson", "spearman"}),
    ],
)
def test_glue(task: str, optimizer: str, scores: set[str], tiny_glue: Path, tiny_bert: Path, tmp_path: Path) -> None:
    parts = ["trainer/cpu", f"task/{task}", "backbone/minilm", f"optimizer/{optimizer}"]
    configs = [argument for part in parts for argument in ("--config", part)]
    options = [f"--data.source={tiny_glue}", f"--model.backbone.name={tiny_bert}", "--data.max_samples=12"]
    summary = fit(tmp_path, *configs, *options)
    assert set(summary["val"]) == scores | {"loss"}
    assert ("online_pearson" in summary) == (task == "stsb")
    assert summary["task"] == task


def test_mnist_and_cifar(tiny_mnist: Path, tmp_path: Path) -> None:
    for task, source in (("mnist", tiny_mnist), ("cifar10", tiny_mnist.parents[1] / "uoft-cs" / "cifar10")):
        folder = tmp_path / task
        folder.mkdir()
        configs = ["--config", "trainer/cpu", "--config", f"task/{task}", "--config", "backbone/lenet5"]
        summary = fit(
            folder, *configs, "--config", "optimizer/loko_logits", f"--data.source={source}", "--data.max_samples=10"
        )
        assert summary["samples"] == 10
        assert "online_top5" in summary


def test_own_texts_of_any_kind(tiny_bert: Path, tmp_path: Path) -> None:
    for label, score in (("stars", "online_accuracy"), ("price", "online_pearson")):
        folder = tmp_path / label
        folder.mkdir()
        rows = [{"review": f"{w} film", "stars": i % 3, "price": i / 2} for i, w in enumerate(WORDS)]
        (folder / "reviews.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        configs = ["--config", "trainer/cpu", "--config", "task/own_text", "--config", "backbone/minilm"]
        options = ["--data.source=reviews.jsonl", "--data.text_columns=[review]", f"--data.label_column={label}"]
        model = [f"--model.backbone.name={tiny_bert}", "--config", "optimizer/loko"]
        assert score in fit(folder, *configs, *options, *model)


def test_own_images(tmp_path: Path) -> None:
    from PIL import Image

    for kind, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (20 + i, 24), (shade, shade + i, shade)).save(tmp_path / "photos" / kind / f"{i}.png")
    configs = ["--config", "trainer/cpu", "--config", "task/own_images", "--config", "backbone/lenet5"]
    summary = fit(tmp_path, *configs, "--config", "optimizer/loko", "--data.source=photos", "--data.batch_size=3")
    assert summary["samples"] == 14
    assert summary["steps"] == 5


# lightning_modules/test_lightning_surface.py has all precisions
@pytest.mark.parametrize("precision", ["bf16-mixed", pytest.param("64-true", marks=pytest.mark.slow)])
def test_precision(precision: str, tmp_path: Path) -> None:
    summary = fit(
        tmp_path, *DIGITS, "--data.max_samples=8", "--config", "optimizer/loko", f"--trainer.precision={precision}"
    )
    assert summary["samples"] == 8
    state = torch.load(only_run(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert state["state"]["filter"]["p"].dtype == torch.float32


def test_a_group_has_its_own_prior(tmp_path: Path) -> None:
    groups = "--model.param_groups={conv: {p0: 3.0, p0_init: constant}}"
    fit(tmp_path, *DIGITS, "--data.max_samples=1", "--config", "optimizer/loko", groups)
    state = torch.load(only_run(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    p = state["state"]["filter"]["p"]
    convolutions = 156 + 2416
    assert len(p) == 61_706
    assert float(p[-convolutions:].max()) == pytest.approx(3.0, rel=1e-2)
    assert float(p[:-convolutions].max()) <= 0.2


def test_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(["fit", *DIGITS, "--data.max_samples=2", "--config", "optimizer/sgd"], tmp_path)[0] == 0
    versions = sorted(path.parent.name for path in tmp_path.rglob("summary.json"))
    assert versions == ["version_0", "version_1"]
    configs = [yaml.safe_load(path.read_text()) for path in tmp_path.rglob("config.yaml")]
    assert configs[0] == configs[1]
