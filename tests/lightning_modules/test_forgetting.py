"""The accuracy on each segment and the forgetting, against hand computations and through whole runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from filtune.datamodules import ChangingDataModule, DigitsDataModule, Segment
from filtune.lightning_modules import BackboneConfig, OnlineModule
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO
from filtune.lightning_modules.forgetting import Forgetting
from filtune.optimizers import Categorical, LoKO
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from tests.cli.harness import only_run, result, run, run_ranks

pytestmark = pytest.mark.filterwarnings("ignore")


def validate(scores: Forgetting, accuracies: list[float], samples: int | None) -> dict[str, float]:
    """Validate on ten samples of each segment, of which so many per cent are predicted correctly."""
    scores.reset()
    for number, accuracy in enumerate(accuracies):
        wrong = torch.arange(10) >= round(accuracy / 10)
        observation = Categorical(torch.tensor([[1.0, 0.0]]).expand(10, 2)).observe(wrong.long())
        scores.update(observation, torch.full((10,), number))
    return {name: float(value) for name, value in scores.compute("val/", samples).items()}


def test_by_hand() -> None:
    """Three segments of 10 samples, validated after every half of one."""
    scores = Forgetting([(0, 10), (1, 10), (2, 10)])
    found = validate(scores, [50, 90, 10], 5)
    assert found == {"val/accuracy_0": 50, "val/accuracy_1": 90, "val/accuracy_2": 10}
    assert "val/forgetting" not in validate(scores, [80, 20, 0], 10)  # no segment is an earlier one
    assert validate(scores, [70, 30, 0], 15)["val/forgetting"] == 80 - 70
    assert validate(scores, [90, 60, 0], 20)["val/forgetting"] == 80 - 90  # better than ever
    # the 90 % on segment 1 were zero-shot, and its best since it began is 60 %
    assert validate(scores, [60, 50, 30], 25)["val/forgetting"] == ((90 - 60) + (60 - 50)) / 2
    assert validate(scores, [70, 20, 40], 30)["val/forgetting"] == ((90 - 70) + (60 - 20)) / 2
    assert scores.best.tolist() == [90, 60, 40]


def test_what_cannot_be_known_is_left_out() -> None:
    scores = Forgetting([(0, 10), (1, 10)])
    assert "val/forgetting" not in validate(scores, [80, 20], 20)  # the first validation of all
    assert scores.best.tolist() == [80, 20]
    assert "val/forgetting" not in validate(scores, [10, 10], None)  # outside of training, which changes nothing
    assert scores.best.tolist() == [80, 20]
    assert Forgetting([]).compute("val/", 10) == {}
    part = Forgetting([(0, 5), (1, 5)])
    assert validate(part, [50], 5) == {"val/accuracy_0": 50}  # segment 1 has no validation sample
    assert math.isnan(part.best[1])


def test_the_best_of_other_segments_is_not_taken_over() -> None:
    before, same, other = Forgetting([(0, 4), (1, 4)]), Forgetting([(0, 4), (1, 4)]), Forgetting([(0, 4), (1, 5)])
    before.best[0] = 50.0
    for module in (same, other):
        module.load(before.state())
    assert same.best[0] == 50.0
    assert bool(other.best.isnan().all())


def test_segments_that_recur() -> None:
    """The present one is not an earlier one, though it has been there before."""
    scores = Forgetting([(0, 5), (1, 5), (0, 5), (1, 3), (2, 0)])
    assert [scores.progress(n) for n in (0, 1, 5, 6, 10, 11, 18)] == [
        (set(), 0), ({0}, 0), ({0}, 0), ({0, 1}, 1), ({0, 1}, 1), ({0, 1}, 0), ({0, 1}, 1),
    ]  # fmt: skip
    assert scores.progress(19) == ({0, 1}, 0)  # a second epoch; segment 2 never comes
    assert scores.progress(36) == ({0, 1}, 1)
    for accuracies, samples in (([80, 0, 0], 5), ([60, 70, 0], 10)):
        validate(scores, accuracies, samples)
    assert validate(scores, [50, 40, 90], 12)["val/forgetting"] == 70 - 40
    assert scores.names("val/") == {"val/accuracy_0", "val/accuracy_1", "val/accuracy_2", "val/forgetting"}
    assert Forgetting([(0, 5), (0, 5), (1, 0)]).names("val/") == {"val/accuracy_0", "val/accuracy_1"}


@given(st.lists(st.lists(st.integers(0, 10), min_size=3, max_size=3), min_size=1, max_size=8), st.integers(1, 7))
def test_against_the_equation(accuracies: list[list[int]], every: int) -> None:
    scores, table = Forgetting([(0, 4), (1, 6), (2, 5)]), 10.0 * np.array(accuracies)
    starts, found = [0, 4, 10], {}
    taken = [min(every * (k + 1), 15) for k in range(len(table))]
    for row, samples in zip(table, taken, strict=True):
        found = validate(scores, row.tolist(), samples)
    k, now = len(table) - 1, sum(taken[-1] > start for start in starts) - 1
    lost = [
        max(past) - table[k, j] for j in range(now) if (past := [table[v, j] for v in range(k) if taken[v] > starts[j]])
    ]
    assert ("val/forgetting" in found) == bool(lost)
    if lost:
        assert found["val/forgetting"] == pytest.approx(np.mean(lost), abs=1e-12)


class Keep(pl.Callback):
    """Saves a checkpoint after a step, and the scores of every validation."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path, self.scores = step, path, []  # type: ignore[var-annotated]

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.scores.append(dict(pl_module.last_validation))  # type: ignore[arg-type]


def stream() -> ChangingDataModule:
    segments = [Segment(8, classes=[0, 1]), Segment(8, classes=[2, 3]), Segment(8, corruption="gaussian_noise")]
    return ChangingDataModule([DigitsDataModule()], segments, validate="all", max_val_samples=60)


def test_a_resumed_run_forgets_as_much(tmp_path: Path) -> None:
    """It is resumed after the validations of which it has to know the best."""

    def fit(keep: Keep, ckpt_path: Path | None = None) -> tuple[pl.Trainer, OnlineModule]:
        pl.seed_everything(1)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            val_check_interval=4,
            num_sanity_val_steps=0,
            callbacks=[keep],
            plugins=[AtomicCheckpointIO()],
            default_root_dir=tmp_path,
            enable_checkpointing=False,
            **quiet,
        )
        module = OnlineModule(BackboneConfig(), LoKO)
        trainer.fit(module, datamodule=stream(), ckpt_path=ckpt_path)
        return trainer, module

    whole, path = Keep(18, tmp_path / "a.ckpt"), tmp_path / "a.ckpt"
    trainer, module = fit(whole)
    resumed = Keep(-1, path)
    _, other = fit(resumed, path)
    assert len(whole.scores) == 6
    assert resumed.scores == whole.scores[-2:]
    assert torch.equal(module.forgetting.best, other.forgetting.best)
    assert ["forgetting" in " ".join(scores) for scores in whole.scores] == [False] * 2 + [True] * 4
    (alone,) = trainer.validate(module, datamodule=stream(), verbose=False)
    assert "val/forgetting" not in alone
    assert alone == pytest.approx({k: v for k, v in whole.scores[-1].items() if k != "val/forgetting"})
    accuracy = [alone[f"val/accuracy_{number}"] for number in range(3)]
    assert alone["val/accuracy"] == pytest.approx(np.mean(accuracy))


@pytest.mark.parametrize("within", [True, False])
def test_callbacks_wait_until_the_forgetting_is_known(tmp_path: Path, within: bool) -> None:
    """There is none before a second segment is validated after the first; Lightning's callbacks would end the run."""
    best = ModelCheckpoint(tmp_path, "{step}", monitor="val/forgetting", save_top_k=-1)
    stop = EarlyStopping("val/forgetting", patience=50)
    waits = {"val_check_interval": 4} if within else {"val_check_interval": 24}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1 if within else 2,
        num_sanity_val_steps=0,
        callbacks=[best, stop],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **waits,  # type: ignore[arg-type]
    )
    trainer.fit(OnlineModule(BackboneConfig(), LoKO), datamodule=stream())
    saved = sorted(int(path.stem.partition("=")[2]) for path in tmp_path.glob("*.ckpt"))
    assert saved == ([12, 16, 20, 24] if within else [48])
    assert math.isfinite(stop.best_score)


COMMAND = [
    "fit", "--config", "task/changing_labels", "--config", "backbone/lenet5", "--config", "optimizer/loko",
    "--data.segments=[{samples: 12, classes: [0, 1]}, {samples: 12, classes: ['2', '3']}, {samples: 12, rotate: 90}]",
    "--data.validate=all", "--data.max_val_samples=45", "--trainer.val_check_interval=3",
    "--trainer.enable_progress_bar=false", "--seed_everything=3",
]  # fmt: skip


@pytest.mark.slow
def test_two_processes_forget_as_much_as_one(tmp_path: Path) -> None:
    """Counts of right predictions are the same, and so is all that is computed from them."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    code, text = run([*COMMAND, "--config", "trainer/cpu", "--data.batch_size=2"], one)
    assert code == 0, text
    for code, text in run_ranks([*COMMAND, "--config", "trainer/ddp_cpu"], two, 2):
        assert code == 0, text
    found, expected = (result(only_run(folder)) for folder in (two, one))
    assert {"accuracy_0", "accuracy_1", "accuracy_2", "forgetting"} < expected[0]["val"].keys()
    assert found[0]["val"] == pytest.approx(expected[0]["val"], rel=1e-3)
    best = [checkpoint["filtune"]["forgetting"]["best"] for _, checkpoint in (found, expected)]
    assert best[0] == best[1]
