"""A run whose data or settings have changed since its checkpoint is not resumed, unless that is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cli.harness import as_earlier, only_run, result, run
from tests.conftest import WORDS

ROWS = [(f"{WORDS[i % 7]} {WORDS[i % 5 + 7]} {WORDS[i % 3]}", "np"[(i // 2) % 2]) for i in range(40)]
COMMON = [
    "fit", "--config=trainer/cpu", "--config=task/own_text", "--config=backbone/minilm",
    "--config=optimizer/adamw_1e-3", "--data.source=reviews.csv", "--data.val_fraction=0.2", "--run.save_interval=8",
    "--model.backbone.name=encoder", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=8",
]  # fmt: skip


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(tiny_bert, folder / "encoder")
    write(folder / "reviews.csv", ROWS)
    code, text = run(COMMON, folder)
    assert code == 0, text
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def swapped(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(text, "pn"["np".index(label)]) for text, label in rows]


CHANGES: dict[str, tuple[Callable[[list], list], str]] = {
    "labels swapped": (swapped, "pairs"),
    "one label": (lambda rows: [*rows[:3], (rows[3][0], "np"["pn".index(rows[3][1])]), *rows[4:]], "labels"),
    "two labels exchanged": (
        lambda rows: [(rows[0][0], rows[2][1]), rows[1], (rows[2][0], rows[0][1]), *rows[3:]],
        "pairs",
    ),
    "one text": (lambda rows: [*rows[:5], (rows[5][0] + " film", rows[5][1]), *rows[6:]], "inputs"),
    "reversed": (lambda rows: rows[::-1], "order"),
    "appended": (lambda rows: [*rows, ("good film", "p")], "rows"),
    "one dropped": (lambda rows: rows[:-1], "rows"),
    "one doubled": (lambda rows: [*rows[:7], rows[6], *rows[8:]], "inputs"),
    "a new class": (lambda rows: [*rows[:-1], (rows[-1][0], "q")], "classes"),
}


# what differs is named by experiments/test_changed_data.py, for every change
@pytest.mark.parametrize(
    "change",
    [pytest.param(name, marks=() if name in ("one label", "a new class") else pytest.mark.slow) for name in CHANGES],
)
def test_changed_data_is_refused_naming_what_differs(copied: Path, change: str) -> None:
    alter, named = CHANGES[change]
    write(copied / "reviews.csv", alter(ROWS))
    code, text = run([*COMMON, "--trainer.max_epochs=2", "--ckpt_path=last"], copied)
    assert code == 2, text
    error = text.strip().splitlines()[-1]
    assert error.startswith("filtune: error: ckpt_path: ")
    if change != "a new class":  # refused by the shape of the head
        assert "the data is not that of the checkpoint" in error
        assert f"{named} (checkpoint " in error
        assert "--run.resume_changed true" in error


@pytest.mark.parametrize(
    "change",
    [
        "labels swapped",
        "appended",
        pytest.param("reversed", marks=pytest.mark.slow),
        pytest.param("one dropped", marks=pytest.mark.slow),
    ],
)
def test_it_goes_on_where_that_is_asked_for(copied: Path, change: str) -> None:
    rows = CHANGES[change][0](ROWS)
    write(copied / "reviews.csv", rows)
    more = ["--run.resume_changed=true", "--trainer.max_epochs=2", "--optimizer.lr=0.002", "--ckpt_path=last"]
    code, text = run([*COMMON, *more], copied)
    assert code == 0, text
    assert "resumed all the same (--run.resume_changed)" in text
    assert "optimizer.init_args.lr (checkpoint 0.001, now 0.002)" in text
    assert result(only_run(copied))[0]["samples"] == len(ROWS) * 4 // 5 + round(len(rows) * 0.8)
    checkpoint = torch.load(only_run(copied) / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["filtune"]["data"]["rows"] == round(len(rows) * 0.8)


def test_the_same_data_goes_on(copied: Path) -> None:
    code, text = run([*COMMON, "--trainer.max_epochs=2", "--data.num_workers=1", "--ckpt_path=last"], copied)
    assert code == 0, text


def test_a_checkpoint_of_an_earlier_release_goes_on(copied: Path) -> None:
    path = only_run(copied) / "checkpoints" / "last.ckpt"
    checkpoint = as_earlier(torch.load(path, weights_only=True))
    del checkpoint["filtune"]["data"]
    torch.save(checkpoint, path)
    code, text = run([*COMMON, "--trainer.max_epochs=2", "--ckpt_path=last"], copied)
    assert code == 0, text


@pytest.mark.parametrize(
    "change",
    [
        "--seed_everything=4",
        "--trainer.limit_train_batches=4",
        "--optimizer=sgd",
        pytest.param("--model.backbone.head=own", marks=pytest.mark.slow),
        # test_resume changes another option of the optimizer, and this one
        pytest.param("--optimizer.weight_decay=0.5", marks=pytest.mark.slow),
        pytest.param("--data.batch_size=2", marks=pytest.mark.slow),
    ],
)
def test_a_changed_setting_is_refused(copied: Path, change: str) -> None:
    last = only_run(copied) / "checkpoints" / "last.ckpt"
    code, text = run([*COMMON, "--trainer.max_epochs=2", change, f"--ckpt_path={last}"], copied)
    assert code == 2, text
    assert text.strip().splitlines()[-1].startswith("filtune: error: "), text
