"""A run with a class that predicts elsewhere than it learns: validated, saved and resumed where it predicts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from filtune.lightning_modules import BackboneConfig, OnlineModule
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO
from filtune.optimizers import TorchOptimizer
from torch.nn.utils import parameters_to_vector

from tests.lightning_modules.surface import data
from tests.lightning_modules.test_online import trainer

RULES = {
    "pytorch_optimizer.ScheduleFreeAdamW": {"lr": 0.01},
    "pytorch_optimizer.SOAP": {"lr": 0.01},
    "ivon.IVON": {"lr": 0.1, "ess": 50.0},
}


def module(name: str) -> OnlineModule:
    """LeNet-5 from a seed, whose weights are averaged as well."""
    pytest.importorskip(name.partition(".")[0])
    pl.seed_everything(0, verbose=False)
    build = partial(TorchOptimizer, name=name, arguments=RULES[name])
    return OnlineModule(BackboneConfig("lenet5", pretrained=False), build, weight_averaging=3)


class Elsewhere(pl.Callback):
    """Notes in each validation whether the parameters are those of the end of the last step, and that they are x."""

    def __init__(self) -> None:
        self.same: list[bool] = []
        self.theta = torch.zeros(0)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.theta = parameters_to_vector(module.backbone.parameters()).clone()

    def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
        groups = module.optimizers(use_pl_optimizer=False).param_groups
        at_average = not any(group.get("train_mode") for group in groups)
        self.same.append(at_average and torch.equal(self.theta, parameters_to_vector(module.backbone.parameters())))


@pytest.mark.parametrize("name", RULES)
def test_a_resumed_run_is_the_whole_run(name: str, tmp_path: Path) -> None:
    whole, resumed, watch = module(name), module(name), Elsewhere()
    kept = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=7, save_top_k=-1, filename="cut")
    io = AtomicCheckpointIO()
    trainer(tmp_path, callbacks=[kept, watch], plugins=[io], val_check_interval=3).fit(whole, datamodule=data(12))
    resumption = trainer(tmp_path, enable_checkpointing=False, val_check_interval=3, plugins=[io])
    resumption.fit(resumed, datamodule=data(12), ckpt_path=tmp_path / "cut.ckpt")
    assert resumption.global_step == 12
    assert torch.equal(parameters_to_vector(whole.parameters()), parameters_to_vector(resumed.parameters()))
    assert whole.online.compute() == resumed.online.compute()
    assert whole.last_validation == resumed.last_validation
    assert all(torch.equal(whole.average.mean[key], resumed.average.mean[key]) for key in whole.average.mean)
    assert watch.same == [True] * 4
