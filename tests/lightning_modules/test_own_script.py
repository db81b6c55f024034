"""A researcher's own script with Lightning's trainer: it works, or what is missing is named in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from filtune.datamodules import DigitsDataModule, Task
from filtune.lightning_modules import BackboneConfig, OnlineModule
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader

from filtune import SGD, LoKO
from tests.lightning_modules.surface import SAMPLES, data, module


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def trainer(**options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(**{"max_epochs": 1, "accelerator": "cpu", "enable_checkpointing": False, **quiet, **options})


def seeded(optimizer: Any = SGD) -> OnlineModule:
    """A module whose weights are the same each time; they are drawn when the fit begins."""
    pl.seed_everything(0, verbose=False)
    return module(optimizer)


class Writer(BasePredictionWriter):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("batch")
        self.kept: list[dict[str, torch.Tensor]] = []

    def write_on_batch_end(self, trainer: Any, module: Any, prediction: Any, *_: Any) -> None:
        self.kept.append(prediction)


@pytest.mark.parametrize("optimizer", [SGD, LoKO])
def test_fit_validate_test_predict(optimizer: type) -> None:
    writer = Writer()
    digits, model, lightning = data(), module(optimizer), trainer(callbacks=[writer])
    lightning.fit(model, datamodule=digits)
    assert int(model.online.samples) == SAMPLES
    (scores,) = lightning.validate(model, datamodule=digits, verbose=False)
    loader = digits.val_dataloader()
    (tested,) = lightning.test(model, dataloaders=loader, verbose=False)
    assert {name.replace("val/", "test/"): value for name, value in scores.items()} == tested
    predicted = lightning.predict(model, dataloaders=loader)
    assert [sorted(batch) for batch in predicted] == [["answer", "mean"]] * 2
    answers = torch.cat([batch["answer"] for batch in predicted])
    labels = torch.cat([batch["label"] for batch in loader])
    assert 100 * float((answers == labels).float().mean()) == pytest.approx(scores["val/accuracy"])
    torch.testing.assert_close(torch.cat([batch["mean"] for batch in predicted]).sum(1), torch.ones(8))
    assert len(writer.kept) == 2


def test_limits_of_test_and_predict() -> None:
    digits, model = data(), module()
    limited = trainer(limit_test_batches=1, limit_predict_batches=1)
    limited.fit(model, datamodule=digits)
    assert len(limited.predict(model, dataloaders=digits.val_dataloader())) == 1
    limited.test(model, dataloaders=digits.val_dataloader(), verbose=False)
    assert limited.num_test_batches == [1]


def test_predict_looks_at_no_label() -> None:
    digits, model, lightning = data(), module(), trainer()
    lightning.fit(model, datamodule=digits)
    unlabelled = [{"image": batch["image"]} for batch in digits.val_dataloader()]
    first = lightning.predict(model, dataloaders=DataLoader(unlabelled, batch_size=None))
    again = lightning.predict(model, dataloaders=digits.val_dataloader())
    assert all(torch.equal(a["mean"], b["mean"]) for a, b in zip(first, again, strict=True))


def test_lightnings_own_checkpoints_resume(tmp_path: Path) -> None:
    """Of two epochs the second goes on as if it had not been interrupted."""
    whole, first, second = (seeded() for _ in range(3))
    pl.seed_everything(0, verbose=False)
    trainer(max_epochs=2).fit(whole, datamodule=data())
    begun = trainer(enable_checkpointing=True, default_root_dir=tmp_path)
    pl.seed_everything(0, verbose=False)
    begun.fit(first, datamodule=data())
    path = begun.checkpoint_callback.best_model_path
    trainer(max_epochs=2).fit(second, datamodule=data(), ckpt_path=path)
    assert int(second.online.samples) == 2 * SAMPLES
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    (scores,) = trainer().validate(module(), datamodule=data(), ckpt_path=path, verbose=False)
    assert scores == trainer().validate(first, datamodule=data(), verbose=False)[0]


def test_the_sanity_check_of_the_default_trainer_changes_nothing() -> None:
    """Two batches of validation before the first step, which is Lightning's default."""
    found = []
    for steps in (0, 2):
        model = seeded()
        trainer(num_sanity_val_steps=steps).fit(model, datamodule=data())
        found.append((model.last_validation, [param.clone() for param in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_loaders_alone_need_a_task() -> None:
    digits = data()
    digits.setup()
    with pytest.raises(ValueError, match=r"^datamodule: the model is built for the task of a data module[^\n]*$"):
        trainer().fit(module(), digits.train_dataloader(), digits.val_dataloader())
    model = module()
    model.task = digits.task
    trainer().fit(model, digits.train_dataloader(), digits.val_dataloader())
    assert int(model.online.samples) == SAMPLES
    assert isinstance(model.task, Task)


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_a_split_that_the_data_does_not_have(stage: str) -> None:
    with pytest.raises(ValueError, match=rf"^datamodule: DigitsDataModule has no {stage} split; call Trainer.{stage}"):
        getattr(trainer(), stage)(module(), datamodule=data())


def test_a_data_module_with_a_test_split_is_tested_on_it() -> None:
    class Tested(DigitsDataModule):
        def test_dataloader(self) -> DataLoader:
            return self.val_dataloader()

    lightning, model = trainer(), module()
    (scores,) = lightning.test(model, datamodule=Tested(max_samples=2, max_val_samples=8), verbose=False)
    assert "test/accuracy" in scores


def test_an_optimizer_of_torch_is_refused() -> None:
    model = OnlineModule(BackboneConfig(), lambda groups: torch.optim.SGD(groups, lr=0.1))
    with pytest.raises(ValueError, match=r"^optimizer_init: torch.optim.sgd.SGD is not an optimizer of filtune"):
        trainer().fit(model, datamodule=data())


def test_load_from_checkpoint_names_what_loads(tmp_path: Path) -> None:
    begun = trainer(enable_checkpointing=True, default_root_dir=tmp_path)
    begun.fit(module(), datamodule=data())
    path = begun.checkpoint_callback.best_model_path
    with pytest.raises(ValueError, match=r"^load_from_checkpoint: the model is built for the task of a data module"):
        OnlineModule.load_from_checkpoint(path, backbone=BackboneConfig(), optimizer_init=SGD)


@pytest.mark.parametrize("tune", ["lr_find", "scale_batch_size"])
def test_the_tuner_is_refused(tune: str) -> None:
    with pytest.raises(ValueError, match=r"^trainer\.callbacks: "):
        getattr(pl.tuner.Tuner(trainer()), tune)(module(), datamodule=data())
