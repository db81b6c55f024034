"""Runs with ``cuda_graphs``: the same as without, resumed bit for bit, without waits; refused where they cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from filtune.datamodules import DigitsDataModule
from filtune.lightning_modules import BackboneConfig, OnlineModule
from filtune.lightning_modules.graphs import check_run
from filtune.lightning_modules.optimization import Schedule
from filtune.optimizers import AdaGrad, AdamW, Filtune, TorchOptimizer

from tests.lightning_modules.test_emulated_device import Waits, digits, flat, trainer

from .graphs import device_with_graphs

RULE = partial(Filtune, top_k=1, rank=2, buffer_size=2)
"""Filtune whose covariance is compressed at every other step."""


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with device_with_graphs():
        yield


def build(rule: Any = RULE, graphs: bool = True, **options: Any) -> OnlineModule:
    """A module with LeNet-5."""
    return OnlineModule(BackboneConfig(), rule, weight_averaging=4, cuda_graphs=graphs, **options)


class Replays(pl.Callback):
    """Notes which steps were replayed, and where the state is."""

    def __init__(self) -> None:
        self.count, self.steps, self.places = 0, set[int](), set[tuple[int, ...]]()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the state once steps are replayed."""
        if module.graphs.replays > self.count:
            self.count = module.graphs.replays
            self.steps.add(trainer.global_step)
            state = trainer.optimizers[0].filter
            kept = (state[name].values for name in ("V", "precision", "gram", "steps", "tempering_log_weights"))
            self.places.add(tuple(x.data_ptr() for x in kept))


def test_a_run_replays_its_steps_and_its_state_stays_in_place(tmp_path: Path) -> None:
    """Online metrics are those without graphs, steps between two logs do not wait, and a resumed run is the whole."""
    plain, whole, resumed = build(graphs=False), build(), build()
    trainer(tmp_path, enable_checkpointing=False).fit(plain, datamodule=digits())
    replays, waits = Replays(), Waits()
    kept = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1, filename="cut")
    trainer(tmp_path, kept, replays, waits).fit(whole, datamodule=digits())
    assert replays.count >= 3
    assert len(replays.places) == 1
    waiting = {step for step, found in enumerate(waits.found, 2) if found}
    assert replays.steps & waiting <= {5, 6, 10, 12}  # checkpoints and logs
    expected = {name: float(value) for name, value in plain.online.compute().items()}
    assert {k: float(v) for k, v in whole.online.compute().items()} == pytest.approx(expected, rel=1e-4)
    trainer(tmp_path, enable_checkpointing=False).fit(resumed, datamodule=digits(), ckpt_path=tmp_path / "cut.ckpt")
    assert torch.equal(flat(whole), flat(resumed))
    assert whole.online.compute() == resumed.online.compute()
    assert whole.graphs is None


@pytest.mark.parametrize(
    ("rule", "options", "device", "message"),
    [
        (AdamW, {}, False, r"^model.cuda_graphs: needs a CUDA device, this run is on cpu; set it to false$"),
        (AdamW, {"schedule": Schedule("linear")}, True, r"^model.cuda_graphs: a recorded step keeps its learning rate"),
        (partial(AdaGrad, lr_decay=0.1), {}, True, r"^model.cuda_graphs: AdaGrad: lr_decay .*set it to 0"),
        (TorchOptimizer, {}, True, r"^model.cuda_graphs: TorchOptimizer: .* take AdamW"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    rule: Any, options: dict[str, Any], device: bool, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, device=device, enable_checkpointing=False).fit(
            build(rule, **options), datamodule=DigitsDataModule(max_samples=2, max_val_samples=2)
        )


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "world_size", 2)
    several = trainer(tmp_path)
    with pytest.raises(ValueError, match=r"^model.cuda_graphs: 2 processes"):
        check_run(several, Schedule())
