"""The training module on its own, without the command line."""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from filtune.datamodules import DigitsDataModule, TextDataModule
from filtune.lightning_modules import BackboneConfig, OnlineModule, check_precision
from filtune.optimizers import LoKO, OnlineOptimizer


def trainer(folder: Path, **options: object) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return pl.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=folder, **{**quiet, **options})  # type: ignore[arg-type]


def test_any_optimizer_that_takes_a_closure_drives_it(tmp_path: Path) -> None:
    calls = []

    class Twice(OnlineOptimizer):
        """Calls its closure twice a step, as SAM does."""

        def __init__(self, params) -> None:
            super().__init__(params, {})

        def step(self, closure):
            self.stats = {}
            first = closure()
            calls.append(closure() is not first)
            return first

    module = OnlineModule(BackboneConfig(), Twice)
    fit = trainer(tmp_path)
    fit.fit(module, datamodule=DigitsDataModule(max_samples=5))
    assert calls == [True] * 5
    assert fit.global_step == 5
    assert int(module.online.samples) == 5


def test_the_model_stays_in_eval_mode(tmp_path: Path) -> None:
    modes = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            modes.append(any(child.training for child in pl_module.backbone.modules()))

    module = OnlineModule(BackboneConfig(), LoKO)
    data = DigitsDataModule(max_samples=6)
    trainer(tmp_path, callbacks=[Watch()], val_check_interval=2).fit(module, datamodule=data)
    assert modes == [False] * 6


def test_saturation_is_said_once(tmp_path: Path, tiny_bert: Path) -> None:
    """A stream of one label under a strong prior: residual and noise vanish."""
    data = tmp_path / "one.csv"
    data.write_text("text,label\n" + "good film,n\n" * 160)
    stream = TextDataModule(source=str(data), text_columns=["text"], classes=["n", "p"], val_fraction=0.0)
    config = BackboneConfig(str(tiny_bert), adapter="lora", head="mean")
    module = OnlineModule(config, lambda params: LoKO(params, p0=50.0, beta=0.5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, log_every_n_steps=40).fit(module, datamodule=stream)
    said = [str(w.message) for w in caught if "saturated" in str(w.message)]
    assert len(said) == 1
    assert "--optimizer.noise softmax" in said[0]


@pytest.mark.parametrize("precision", ["16-mixed", "16", 16])
def test_scaled_gradients_are_refused(precision: object) -> None:
    with pytest.raises(ValueError, match="bf16-mixed or 32-true"):
        check_precision(precision)
    check_precision("bf16-mixed")
    check_precision(None)


def test_each_step_has_a_seed_of_its_own(tmp_path: Path) -> None:
    """Randomness in a step depends on the run's seed and the step alone."""
    drawn: dict[int, list[float]] = {}

    def run(seed: int) -> None:
        class Draw(LoKO):
            def step(self, closure):
                drawn.setdefault(seed, []).append(float(torch.rand(())))
                return super().step(closure)

        module = OnlineModule(BackboneConfig(), Draw)
        module.run_config = {"seed_everything": seed}
        trainer(tmp_path).fit(module, datamodule=DigitsDataModule(max_samples=4))

    run(1)
    first = drawn.pop(1)
    torch.rand(17)
    run(1)
    run(2)
    assert drawn[1] == first
    assert len(set(first)) == 4
    assert not set(first) & set(drawn[2])
