"""The commands that :mod:`tests.endurance.chaos` kills, and their inputs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

WORDS = "good bad film plot dull bright actor story love hate great poor a the is was not very and of".split()


@dataclass(frozen=True)
class Setup:
    """A command and what is compared of it.

    Attributes:
        name: Its name.
        args: The command line.
        outcome: How its outcome is read: ``fit``, ``records``, ``report``, ``export`` or ``predict``.
        inputs: Files and folders that it reads.
        spawns: Whether it starts processes of its own, each of which imports everything.
    """

    name: str
    args: tuple[str, ...]
    outcome: str = "fit"
    inputs: tuple[str, ...] = ()
    spawns: bool = False


def _fit(*more: str, samples: int = 40) -> tuple[str, ...]:
    common = ("trainer.enable_progress_bar=false", f"data.max_samples={samples}", "trainer.log_every_n_steps=10")
    later = ("run.save_interval=5", "trainer.max_epochs=2", "seed_everything=3")
    return ("fit", "--config=trainer/cpu", *more, *(f"--{option}" for option in (*common, *later)))


_DIGITS = ("--config=task/digits", "--config=backbone/lenet5", "--data.max_val_samples=70")
_TEXT = (
    "--config=task/own_text", "--data.source=reviews.csv", "--config=backbone/minilm", "--model.backbone.name=encoder",
)  # fmt: skip
_SHORT = ("--data.max_samples=40", "--data.max_val_samples=30", "--run.save_interval=5")
_CHECKPOINT = "--ckpt_path=finished/checkpoints/last.ckpt"
_TEXT_INPUTS = ("reviews.csv", "encoder", "finished")

SETUPS = (
    Setup("filtune", _fit(*_DIGITS, "--config=optimizer/filtune", samples=40)),
    Setup("loko_with_baseline", _fit(*_DIGITS, "--config=optimizer/loko", "--run.baselines=[adamw_1e-3]")),
    Setup(
        "adamw_averaged",
        _fit(
            *_DIGITS, "--config=optimizer/adamw_warmup", "--model.schedule.warmup=10", "--model.weight_averaging=20",
        ),
    ),
    Setup("ring", _fit(*_DIGITS, "--config=optimizer/ring", "--data.batch_size=4")),
    Setup("text_loko", _fit(*_TEXT, "--config=optimizer/loko"), inputs=("reviews.csv", "encoder")),
    Setup(
        "rotated_workers",
        _fit(
            "--config=task/changing_angles", "--config=backbone/lenet5", "--config=optimizer/adamw_1e-3",
            "--data.num_workers=2",
        ),
    ),
    Setup("predict", ("predict", _CHECKPOINT, "--input=reviews.csv", "--output=out.csv"), "predict", _TEXT_INPUTS),
    Setup("export", ("export", _CHECKPOINT, "--to=out", "--merge", "--overwrite"), "export", _TEXT_INPUTS),
    Setup(
        "sweep",
        (
            "sweep", *_DIGITS[:2], "--config=optimizer/adamw_1e-3", "--grid=optimizer.lr=1e-3,1e-2", "--seeds=1",
            *_SHORT, "--root=root", "--jobs=1", "--threads=1",
        ),
        "records", spawns=True,
    ),
    Setup("reproduce", ("reproduce", "table.yaml", "--root=root", "--threads=1"), "records", ("table.yaml",), True),
    Setup("report", ("report", "root", "--output=out"), "report", ("root",)),
)  # fmt: skip
"""In the order of the trials."""

_TABLE: dict[str, Any] = {
    "title": "Digits",
    "kind": "table",
    "metric": "online_accuracy",
    "published_seeds": 3,
    "seeds": [0],
    "set": {"data.max_samples": 40, "data.max_val_samples": 30, "run.save_interval": 5},
    "columns": [{"name": "digits", "title": "Digits, LeNet-5", "task": "digits", "backbone": "lenet5"}],
    "rows": [
        {"name": "loko", "title": "LoKO", "optimizer": "loko", "published": [[80.0, 1.0]]},
    ],
}


def write_input(name: str, folder: Path, start: Callable[..., Any], patience: float) -> None:
    """Write an input, if it is not there: texts, a table of ours, a tiny random encoder, a finished run or sweep.

    Args:
        name: Its name.
        folder: Where to write.
        start: Starts a command.
        patience: Seconds after which one that does not end is a failure.

    Raises:
        RuntimeError: If a command fails.
    """
    path = folder / name
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if name == "reviews.csv":
        rows = [f"{WORDS[i % 7]} {WORDS[i % 5 + 7]} {WORDS[i % 3]},{'np'[(i // 2) % 2]}" for i in range(240)]
        path.write_text("text,label\n" + "\n".join(rows) + "\n")
    elif name == "table.yaml":
        path.write_text(yaml.safe_dump(_TABLE))
    elif name == "encoder":
        _write_encoder(path)
    else:
        source = next(setup for setup in SETUPS if setup.name == {"finished": "text_loko", "root": "sweep"}[name])
        for needed in source.inputs:
            write_input(needed, folder, start, patience)
        command = start(source, list(source.args), folder)
        if command.wait(patience) != 0:
            raise RuntimeError(f"{source.name}: {command.output.read_text()[-2000:]}")
        if name == "finished":
            (run,) = folder.glob("runs/*/*/version_0")
            shutil.copytree(run, path)


def _write_encoder(folder: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
