"""A trainer that resumes from a checkpoint sees each remaining sample once, in the order of the uninterrupted run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from filtune.datamodules import DataError, DigitsDataModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore")


class Recorder(pl.LightningModule):
    """Writes down the rows it sees."""

    def __init__(self, schedule: bool = False) -> None:
        super().__init__()
        self.layer, self.schedule, self.rows = torch.nn.Linear(64, 10), schedule, []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.rows += batch["row"].tolist()
        return torch.nn.functional.cross_entropy(self.layer(batch["image"].flatten(1) / 255), batch["label"])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.schedule:
            self.trainer.estimated_stepping_batches  # noqa: B018  asks for the loader before the state is restored
        return torch.optim.SGD(self.parameters(), 0.1)


class Keep(Callback):
    """Saves a checkpoint at the end of a batch."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(
    folder: Path,
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    schedule: bool = False,
    data: dict | None = None,
    **trainer: Any,
) -> list[int]:
    model = Recorder(schedule)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    length = {"max_epochs": 3} if "max_steps" not in trainer else {"max_epochs": -1}
    options = {"default_root_dir": folder, "num_sanity_val_steps": 0, **quiet, **length, **trainer}
    options["enable_checkpointing"] = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    module = DigitsDataModule(**{"max_samples": 7, "batch_size": 2, "max_val_samples": 3, **(data or {})})
    pl.Trainer(callbacks=list(callbacks), **options).fit(model, module, ckpt_path=ckpt_path, weights_only=True)
    return model.rows


def counted(step: int) -> int:
    """Samples seen after a step: batches of 2, 2, 2 and 1."""
    return step // 4 * 7 + step % 4 * 2


@pytest.mark.parametrize(
    ("step", "schedule"),
    [(1, False), (4, False), (11, False), (3, True), (4, True)],
)
def test_resumes_after_any_batch(tmp_path: Path, step: int, schedule: bool) -> None:
    whole = fit(tmp_path, Keep(step, tmp_path / "step.ckpt"), schedule=schedule)
    assert len(whole) == 21
    assert fit(tmp_path, ckpt_path=tmp_path / "step.ckpt", schedule=schedule) == whole[counted(step) :]


@pytest.mark.parametrize(("on_train_epoch_end", "schedule"), [(False, True), (True, False)])
def test_resumes_after_an_epoch(tmp_path: Path, on_train_epoch_end: bool, schedule: bool) -> None:
    kept = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=on_train_epoch_end)
    whole = fit(tmp_path, kept, schedule=schedule)
    assert fit(tmp_path, ckpt_path=tmp_path / "epoch=0.ckpt", schedule=schedule) == whole[7:]
    assert fit(tmp_path, ckpt_path=tmp_path / "epoch=1.ckpt", schedule=schedule) == whole[14:]


@pytest.mark.parametrize("step", [4, 6])
def test_resumes_a_run_of_so_many_steps(tmp_path: Path, step: int) -> None:
    whole = fit(tmp_path, Keep(step, tmp_path / "step.ckpt"), max_steps=10)
    assert len(whole) == counted(10)
    assert fit(tmp_path, ckpt_path=tmp_path / "step.ckpt", max_steps=10) == whole[counted(step) :]


@pytest.mark.parametrize("step", [3])
def test_resumes_with_validation_within_the_epoch(tmp_path: Path, step: int) -> None:
    whole = fit(tmp_path, Keep(step, tmp_path / "step.ckpt"), val_check_interval=2)
    assert fit(tmp_path, ckpt_path=tmp_path / "step.ckpt", val_check_interval=2) == whole[counted(step) :]


def test_another_stream_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, Keep(2, tmp_path / "step.ckpt"))
    with pytest.raises(DataError, match=r"seed \(checkpoint 0, now 5\)"):
        fit(tmp_path, ckpt_path=tmp_path / "step.ckpt", data={"seed": 5})
