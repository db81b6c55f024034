"""A learner that is given the stream of ``filtune fit`` has its parameters and figures, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.datamodules import DigitsDataModule, StreamDataModule, TextDataModule

from filtune import OnlineLearner
from filtune.cli import main

CONFIG = ("seed_everything", "model", "optimizer", "data", "trainer")


def fitted(root: Path, *options: str) -> dict[str, Any]:
    """Return the last checkpoint of a run."""
    quiet = ["--trainer.enable_progress_bar=false", "--run.validations=1", "--trainer.logger=false"]
    main(["fit", *options, "--run.root", str(root), *quiet])
    (path,) = root.rglob("last.ckpt")
    return torch.load(path, weights_only=True)


def stream(data: StreamDataModule, batch_size: int = 1) -> list[tuple[list[Any], list[Any]]]:
    """Return the samples of a run with their labels by name, batch by batch."""
    data.setup()
    batches = []
    for batch in data.train_dataloader():
        labels = (
            [data.task.classes[i] for i in batch["label"].tolist()] if data.task.classes else batch["label"].tolist()
        )
        batches.append((list(batch[data.modality]), labels))
    return batches


def assert_equal(learner: OnlineLearner, checkpoint: dict[str, Any]) -> None:
    own = learner.model.state_dict()
    differ = [name for name, tensor in checkpoint["state_dict"].items() if not torch.equal(own[name], tensor)]
    assert not differ
    assert learner.steps == checkpoint["global_step"]
    (saved,), state = checkpoint["optimizer_states"], learner.optimizer.state_dict()
    for key, values in saved["state"].items():
        assert all(torch.equal(value, state["state"][key][name]) for name, value in values.items())


@pytest.mark.parametrize(("optimizer", "count"), [("loko", 12), ("filtune", 25), ("adamw", 12)])
def test_digits(tmp_path: Path, optimizer: str, count: int) -> None:
    options = ["--config", "task/digits", "--config", "backbone/lenet5", "--config", "trainer/cpu"]
    checkpoint = fitted(
        tmp_path,
        *options,
        "--optimizer",
        optimizer,
        f"--data.max_samples={count}",
        "--seed_everything=3",
        "--data.seed=3",
    )
    config = {name: checkpoint["filtune"]["config"][name] for name in CONFIG}
    learner = OnlineLearner.from_config(config, total_steps=count)
    for (x,), (y,) in stream(DigitsDataModule(max_samples=count, seed=3)):
        learner.learn_one(x.numpy(), int(y))
        learner.predict_one(x)  # what is asked in between changes nothing
    learner.uncertainty(x)
    assert_equal(learner, checkpoint)
    figures = learner.metrics
    assert figures["online_accuracy"] == float(learner.model.online.compute()["online/accuracy"])
    assert figures["samples"] == count


def test_batches_and_parts(tmp_path: Path) -> None:
    """Two samples a step; the learner is built of parts, without a configuration."""
    options = ["--config", "task/digits", "--config", "backbone/lenet5", "--optimizer", "SGD", "--optimizer.lr=0.05"]
    more = ["--data.max_samples=12", "--data.batch_size=2", "--model.weight_averaging=5"]
    checkpoint = fitted(tmp_path, *options, *more)
    from functools import partial

    from filtune.optimizers import SGD

    learner = OnlineLearner(
        "classification",
        {"name": "lenet5", "pretrained": False},
        partial(SGD, lr=0.05),
        [str(i) for i in range(10)],
        image_shape=(1, 8, 8),
        weight_averaging=5,
    )
    for xs, ys in stream(DigitsDataModule(max_samples=12, batch_size=2)):
        learner.learn_many(xs, ys)
    assert_equal(learner, checkpoint)
    mean = checkpoint["filtune"]["weight_averaging"]["mean"]
    assert all(torch.equal(learner.model.average.mean[name], value) for name, value in mean.items())


@pytest.mark.parametrize("optimizer", ["filtune", pytest.param("adamw_1e-3", marks=pytest.mark.slow)])
def test_texts(tmp_path: Path, minilm: Path, tiny_glue: Path, optimizer: str) -> None:
    options = ["--config", "task/sst2", "--config", "backbone/minilm", "--config", "trainer/cpu"]
    source = [f"--data.source={tiny_glue}", f"--model.backbone.name={minilm}", "--data.max_samples=5"]
    checkpoint = fitted(tmp_path, *options, *source, "--optimizer", optimizer, "--data.max_val_samples=2")
    config = {name: checkpoint["filtune"]["config"][name] for name in CONFIG}
    learner = OnlineLearner.from_config(config)
    assert learner.inputs.columns == ["sentence"]
    for (x,), (y,) in stream(TextDataModule(str(tiny_glue), ["sentence"], name="sst2", max_samples=5)):
        learner.learn_one({"sentence": x, "idx": 3}, y)
    assert_equal(learner, checkpoint)


def test_a_regression_in_running_units(tmp_path: Path, tiny_bert: Path) -> None:
    table = tmp_path / "prices.csv"
    rows = [f"good film {'very ' * (i % 5)},{1000.5 + 10 * (i % 5)}" for i in range(40)]
    table.write_text("\n".join(["text,price", *rows]) + "\n")
    options = [f"--data.source={table}", "--data.label_column=price", f"--model.backbone.name={tiny_bert}"]
    checkpoint = fitted(
        tmp_path / "runs", "--config", "task/own_text", *options, "--optimizer=loko", "--data.max_samples=20"
    )
    assert checkpoint["filtune"]["task"]["target_scaling"]
    config = {name: checkpoint["filtune"]["config"][name] for name in CONFIG}
    learner = OnlineLearner.from_config(config)
    for (x,), (y,) in stream(TextDataModule(str(table), ["text"], label_column="price", max_samples=20)):
        learner.learn_one(x, y)
    assert_equal(learner, checkpoint)
    assert 900 < learner.predict_one("good film") < 1200
    assert learner.uncertainty("good film")["std"] > 0
    with pytest.raises(ValueError, match="a regression has no probabilities"):
        learner.predict_proba_one("good film")


def test_a_run_goes_on_as_a_learner(tmp_path: Path) -> None:
    """Half by a learner, saved and loaded, and half by another, are the whole by ``fit``; and so is a run's folder."""
    options = ["--config", "task/digits", "--config", "backbone/lenet5", "--optimizer", "loko"]
    whole = fitted(tmp_path / "whole", *options, "--data.max_samples=10")
    batches = stream(DigitsDataModule(max_samples=10))
    config = {name: whole["filtune"]["config"][name] for name in CONFIG}
    first = OnlineLearner.from_config(config)
    for (x,), (y,) in batches[:5]:
        first.learn_one(x, y)
    first.save(tmp_path / "half.ckpt")
    second = OnlineLearner.from_checkpoint(tmp_path / "half.ckpt")
    for (x,), (y,) in batches[5:]:
        second.learn_one(x, y)
    assert_equal(second, whole)
    (run,) = (path.parents[1] for path in (tmp_path / "whole").rglob("last.ckpt"))
    again = OnlineLearner.from_checkpoint(run)
    assert_equal(again, whole)
    assert again.classes == list("0123456789")
