"""A cell of each backbone and family of optimizers runs: five steps, offline, on generated data and tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from filtune.experiments import runs
from filtune.experiments.cells import Cell, cells
from filtune.experiments.composition import compose, lookup
from filtune.experiments.records import Store, metric_of
from filtune.experiments.runs import Job
from filtune.experiments.tables import load_table, table_names
from filtune.lightning_modules.launch import quiet
from transformers import RobertaConfig, RobertaForSequenceClassification

import filtune
from filtune.lightning_cli import FiltuneCLI
from tests.conftest import SIZES, VOCABULARY, write_tokenizer
from tests.experiments.schema import IMAGES, shrink, write_glue, write_images

BASE = [name for name in table_names() if "of" not in load_table(name).raw]
"""The tables whose cells are run; others and figures show the same runs (test_tables)."""

MAY_DIVERGE = ("ring-literal", "reng-literal")


def shown_metric(table: str, cell: Cell) -> str:
    """The metric that a table shows of a cell."""
    found = load_table(table)
    (column,) = [column for column in found.columns if column.name == cell.name.split("/")[1]]
    return column.metric or found.metric


def chosen() -> list[Any]:
    """One cell per backbone and family of optimizers, per optimizer, and per task: others differ in rates and sizes."""
    seen: set[Any] = set()
    found = []
    for table in BASE:
        for cell in cells(load_table(table)):
            if "measurement" in cell.config:  # test_measurements.py
                continue
            rule = optimizer_of(cell)
            kinds = {cell.task, (rule, cell.name.split("/")[0] in MAY_DIVERGE), (cell.backbone, family(rule))}
            kinds |= {each["class_path"] for each in lookup(cell.config, "trainer.callbacks") or []}
            if kinds - seen:
                marks = () if len(found) % 4 == 0 else pytest.mark.slow  # each takes a second
                found.append(pytest.param(cell, shown_metric(table, cell), id=f"{table}-{cell.name}", marks=marks))
            seen |= kinds
    return found


def optimizer_of(cell: Cell) -> str:
    return lookup(cell.config, "optimizer.class_path")


def family(rule: str) -> str:
    """The folder of its module: kalman, kfac, or none for first-order rules."""
    module = getattr(filtune, rule.rpartition(".")[2]).__module__
    return next((name for name in ("kalman", "kfac") if f".{name}." in module), "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> dict[str, str]:
    """Where the hub's ids lie: generated data, and a RoBERTa and a BERT of two layers."""
    root = tmp_path_factory.mktemp("hub")
    found = {"nyu-mll/glue": write_glue(root / "glue")}
    found |= {source: write_images(root / source.replace("/", "-"), source) for source in IMAGES}
    roberta = root / "roberta"
    roberta.mkdir()
    write_tokenizer(roberta)
    config = RobertaConfig(vocab_size=len(VOCABULARY), max_position_embeddings=64, pad_token_id=0, **SIZES)
    RobertaForSequenceClassification(config).save_pretrained(roberta)
    found |= {f"FacebookAI/roberta-{size}": roberta for size in ("base", "large")}
    found["sentence-transformers/all-MiniLM-L6-v2"] = tiny_bert
    return {name: str(folder) for name, folder in found.items()}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make runs in this process; no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cells-cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def fit(job: Job, folder: Path, config: Path, *_: Any) -> str | None:
        try:
            line = ["fit", "--config", str(config), f"--seed_everything={job.seed}", f"--run.root={folder}"]
            FiltuneCLI([*line, "--trainer.enable_progress_bar=false"])
        except FloatingPointError as error:
            return str(error)
        return None

    monkeypatch.setattr(runs, "_fit", fit)


@pytest.mark.parametrize(("cell", "metric"), chosen())
def test_a_cell_runs(cell: Cell, metric: str, folders: dict[str, str], tmp_path: Path) -> None:
    quiet()
    config = compose([], cell.config, shrink(cell.config, cell.backbone))
    job = Job("cell", config, 0, cell.task, cell.backbone, cell.name, folders)
    record = runs.run(job, Store(tmp_path), 1)
    if record["status"] == "diverged":
        assert cell.name.startswith(MAY_DIVERGE)
        return
    assert record["steps"] == 5
    assert record["samples"] == 5 * config["data"]["init_args"]["batch_size"]
    assert record["trainable_parameters"] > 0
    assert metric_of(record, metric) is not None
