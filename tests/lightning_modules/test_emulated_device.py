"""Whole runs on an emulated device: as on the CPU, resumed bit for bit, and without a wait between two logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from filtune.datamodules import DigitsDataModule, TextDataModule
from filtune.lightning_modules import BackboneConfig, OnlineModule
from filtune.optimizers import RING, AdamW, Filtune, LoKO
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from tests.emulated_device import DEVICE, emulated_device, host_waits

EVERY = 6
"""Steps between two logs."""

RULES: dict[str, Callable[..., Any]] = {
    "LoKO": LoKO,
    "Filtune": partial(Filtune, top_k=1),
    "AdamW": AdamW,
    "RING": RING,
}


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with emulated_device():
        yield


class Emulated(CPUAccelerator):
    """An accelerator with the emulated device."""

    def setup_device(self, device: torch.device) -> None:
        """Accept it."""


class Waits(pl.Callback):
    """Notes what makes the host wait in every step, with what Lightning does around it."""

    def __init__(self) -> None:
        self.found: list[list[str]] = []
        self.stack = ExitStack()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Begin with the next step."""
        self.stack.close()
        self.found.append(self.stack.enter_context(host_waits()))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """End."""
        self.stack.close()
        self.found.pop()


def trainer(folder: Path, *callbacks: pl.Callback, device: bool = True, **options: Any) -> pl.Trainer:
    """Return a trainer on the emulated device, or on the CPU."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    torch.manual_seed(0)  # of the backbone, which is built when the run starts
    strategy = SingleDeviceStrategy(DEVICE, Emulated()) if device else SingleDeviceStrategy("cpu", CPUAccelerator())
    return pl.Trainer(
        strategy=strategy,
        max_epochs=1,
        default_root_dir=folder,
        log_every_n_steps=EVERY,
        callbacks=list(callbacks),
        **{**quiet, **options},
    )


def build(name: str) -> OnlineModule:
    """Return a module with LeNet-5."""
    return OnlineModule(BackboneConfig(), RULES[name], weight_averaging=4)


def digits(samples: int = 14) -> DigitsDataModule:
    """Return a short stream."""
    return DigitsDataModule(max_samples=samples, max_val_samples=20)


def flat(module: OnlineModule) -> Tensor:
    """Return the trained parameters, flat, on the CPU."""
    return torch.cat([p.detach().flatten().cpu() for p in module.parameters() if p.requires_grad])


def between_logs(waits: Waits, but: set[int] | None = None) -> dict[int, list[str]]:
    """Return the waits of the steps that write no log, by step, once the run has started."""
    # Newton's method is asked once a step whether it has converged
    asked = [[wait for wait in found if "posterior_mode.py" not in wait] for found in waits.found]
    steps = {step: found for step, found in enumerate(asked, 2) if step > 3 and step % EVERY}
    assert len(steps) > 5
    return {step: found for step, found in steps.items() if found and step not in (but or set())}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "Filtune" else pytest.mark.slow) for name in RULES]
)
def test_no_step_waits_between_two_logs(name: str, tmp_path: Path) -> None:
    """The step, the metrics and the mean of the weights leave the device alone; factors are inverted at step nine."""
    waits, module = Waits(), build(name)
    trainer(tmp_path, waits, enable_checkpointing=False).fit(module, datamodule=digits())
    assert between_logs(waits, {9} if name == "RING" else set()) == {}
    assert next(module.parameters()).device.type == "cpu"  # the run has given it back


@pytest.mark.parametrize("name", ["LoKO", pytest.param("AdamW", marks=pytest.mark.slow)])
def test_figures_are_those_of_the_cpu(name: str, tmp_path: Path) -> None:
    """Online metrics and validation agree to rounding."""
    found = []
    for device in (False, True):
        module = build(name)
        trainer(tmp_path, device=device, enable_checkpointing=False).fit(module, datamodule=digits())
        found.append({**{k: float(v) for k, v in module.online.compute().items()}, **module.last_validation})
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_a_resumed_run_is_the_whole_run(tmp_path: Path) -> None:
    """Its checkpoint is loaded on the CPU and goes to the device."""
    whole, resumed = build("Filtune"), build("Filtune")
    kept = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=8, save_top_k=-1, filename="cut")
    trainer(tmp_path, kept, val_check_interval=14).fit(whole, datamodule=digits())
    last = trainer(tmp_path, enable_checkpointing=False)
    last.fit(resumed, datamodule=digits(), ckpt_path=tmp_path / "cut.ckpt")
    assert last.global_step == 14
    assert torch.equal(flat(whole), flat(resumed))
    assert whole.online.compute() == resumed.online.compute()


def test_texts_do_not_wait_either(tmp_path: Path, tiny_bert: Path) -> None:
    """Tokens go to the device without a wait, and a text alone has no mask for transformers to read."""
    data = tmp_path / "texts.csv"
    data.write_text("text,label\n" + "good film,p\nbad film of a plot,n\n" * 10)
    config = BackboneConfig(name=str(tiny_bert), adapter="lora", rank=2, head="mean")
    waits = Waits()
    module = OnlineModule(config, partial(LoKO, p0_init="constant"))
    stream = TextDataModule(source=str(data), text_columns=["text"], max_samples=14)
    trainer(tmp_path, waits, enable_checkpointing=False).fit(module, datamodule=stream)
    assert between_logs(waits) == {}
