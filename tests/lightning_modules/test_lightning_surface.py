"""docs/lightning.md has a row for all that Lightning offers, and every row is true.

What only the command line does with an option is tried in tests/cli/test_lightning_options.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from filtune.lightning_modules.monitoring import check_precision, check_strategy
from filtune.lightning_modules.trainer_checks import check_precision_plugin, check_trainer
from lightning.pytorch import loggers, plugins, profilers, strategies
from lightning.pytorch.plugins.environments import LightningEnvironment

from tests.lightning_modules.surface import SAMPLES, STATUS, Probe, data, module, offered, rows, run

ROWS = rows()
OF_SOME_VERSIONS = {"LitLogger", "NeptuneLogger"}
"""What not every version that is supported has."""
Seen = Callable[[pl.Trainer, Probe], object]


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a trainer sets for the whole process is set back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize("section", offered())
def test_the_page_has_a_row_for_everything_the_installed_version_offers(section: str) -> None:
    """An option or a class that is new in Lightning needs a decision, and a row."""
    missing, gone = offered()[section] - ROWS[section].keys(), ROWS[section].keys() - offered()[section]
    assert not missing
    assert gone <= OF_SOME_VERSIONS
    assert set(ROWS[section].values()) <= set(STATUS)


HONOURED: dict[str, tuple[dict[str, Any], Seen]] = {
    "accelerator": ({"accelerator": "cpu"}, lambda t, p: isinstance(t.accelerator, pl.accelerators.CPUAccelerator)),
    "barebones": ({"barebones": True}, lambda t, p: not t.loggers and not t.checkpoint_callbacks),
    "benchmark": ({"benchmark": True}, lambda t, p: p.seen["benchmark"] == SAMPLES),
    "callbacks": ({}, lambda t, p: p.seen["batches"] == SAMPLES),
    "check_val_every_n_epoch": (
        {"check_val_every_n_epoch": 2, "max_epochs": 3},
        lambda t, p: p.seen["validations"] == 1,
    ),
    "detect_anomaly": ({"detect_anomaly": True}, lambda t, p: p.seen["anomaly"] == SAMPLES),
    "deterministic": ({"deterministic": True}, lambda t, p: p.seen["deterministic"] == SAMPLES),
    "devices": ({"devices": 1}, lambda t, p: t.num_devices == 1),
    "fast_dev_run": ({"fast_dev_run": 2}, lambda t, p: (p.seen["batches"], p.seen["val_batches"]) == (2, 2)),
    "inference_mode": ({"inference_mode": False}, lambda t, p: p.seen["val_batches"] and not p.seen["inference"]),
    "limit_train_batches": ({"limit_train_batches": 0.5}, lambda t, p: p.seen["batches"] == SAMPLES // 2),
    "limit_val_batches": ({"limit_val_batches": 1}, lambda t, p: p.seen["val_batches"] == 1),
    "log_every_n_steps": ({"log_every_n_steps": 0}, lambda t, p: p.seen["batches"] == SAMPLES and not p.metrics[-1]),
    "max_epochs": ({"max_epochs": 2}, lambda t, p: p.seen["batches"] == 2 * SAMPLES),
    "max_steps": ({"max_steps": 2}, lambda t, p: t.global_step == 2),
    "max_time": ({"max_time": {"seconds": 0}}, lambda t, p: t.global_step == 0),
    "min_epochs": ({"min_epochs": 2, "max_epochs": 2}, lambda t, p: t.current_epoch == 2),
    "min_steps": ({"min_steps": SAMPLES}, lambda t, p: t.global_step == SAMPLES),
    "num_nodes": ({"num_nodes": 1}, lambda t, p: t.num_nodes == 1),
    "num_sanity_val_steps": ({"num_sanity_val_steps": 2}, lambda t, p: p.seen["sanity"] == 1),
    "plugins": ({"plugins": LightningEnvironment()}, lambda t, p: t.global_step == SAMPLES),
    "precision": ({"precision": "64-true"}, lambda t, p: next(t.model.backbone.parameters()).dtype == torch.float64),
    "profiler": ({"profiler": "simple"}, lambda t, p: t.profiler.recorded_durations["optimizer_step"]),
    "strategy": ({"strategy": "auto"}, lambda t, p: isinstance(t.strategy, strategies.SingleDeviceStrategy)),
    "val_check_interval": ({"val_check_interval": 2}, lambda t, p: p.seen["validations"] == SAMPLES // 2),
}
"""Options and what is seen with them: the trainer, and what happened during the run."""

REFUSED: dict[str, dict[str, Any]] = {
    "accumulate_grad_batches": {"accumulate_grad_batches": 2},
    "gradient_clip_val": {"gradient_clip_val": 1.0},
    "model_registry": {"model_registry": "name"},
    "overfit_batches": {"overfit_batches": 2},
    "reload_dataloaders_every_n_epochs": {"reload_dataloaders_every_n_epochs": 1},
    "sync_batchnorm": {"sync_batchnorm": True},
}

ON_THE_COMMAND_LINE = {
    "default_root_dir", "enable_autolog_hparams", "enable_checkpointing", "enable_model_summary",
    "enable_progress_bar", "gradient_clip_algorithm", "limit_predict_batches", "limit_test_batches", "logger",
    "use_distributed_sampler",
}  # fmt: skip
"""Tried in tests/cli/test_lightning_options.py, and the two limits in test_own_script.py."""


def test_every_option_is_tried() -> None:
    assert set(HONOURED) | set(REFUSED) | ON_THE_COMMAND_LINE == set(ROWS["Trainer"])
    assert {name for name in HONOURED if ROWS["Trainer"][name] != "honoured"} == set()
    assert {name for name in REFUSED if ROWS["Trainer"][name] != "refused"} == set()


@pytest.mark.parametrize("name", HONOURED)
def test_an_option_that_is_honoured_has_its_effect(name: str, tmp_path: Path) -> None:
    options, seen = HONOURED[name]
    assert seen(*run(tmp_path, **options))


@pytest.mark.parametrize("name", REFUSED)
def test_an_option_that_is_refused_is_named_before_anything_is_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.{name}: [^\n]*$"):
        run(tmp_path, **REFUSED[name])


VALUES = {
    "limit_train_batches": {"limit_train_batches": 0},
    "max_epochs": {"max_epochs": 0},
    "max_steps": {"max_steps": 0},
    "min_epochs": {"min_epochs": 3, "max_epochs": 2},
    "min_steps": {"min_steps": SAMPLES + 1},
    "check_val_every_n_epoch": {"check_val_every_n_epoch": 0},
    "log_every_n_steps": {"log_every_n_steps": -1},
    "precision": {"precision": "bf16-true"},
}
"""Values that are refused of options that are honoured."""


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.{name}: [^\n]*$"):
        run(tmp_path, **VALUES[name])


@pytest.mark.parametrize("name", ["16-mixed", "16", 16, "16-true", "bf16-true", "transformer-engine", "new-in-2030"])
def test_a_precision_that_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match=rf"^trainer.precision: {name} .*; take bf16-mixed or 32-true$"):
        check_precision(name)


@pytest.mark.parametrize("name", [None, "32-true", 32, "64-true", "bf16-mixed", "bf16"])
def test_a_precision_that_works(name: object, tmp_path: Path) -> None:
    check_precision(name)
    assert run(tmp_path, precision=name, max_steps=1)[0].global_step == 1


def test_the_epochs_may_end_before_the_steps(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=rf"trainer.max_steps: 99 is more than the {SAMPLES} steps of trainer.max_epochs 1"
    ):
        assert run(tmp_path, max_steps=99)[0].global_step == SAMPLES


class Recorder(loggers.Logger):
    """A logger of the user's."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        self.metrics: dict[str, list[int]] = {}
        self.hyperparameters: list[Any] = []
        self.saved = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name in metrics:
            self.metrics.setdefault(name, []).append(step or 0)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.hyperparameters.append(params)

    def save(self) -> None:
        self.saved += 1


def test_every_logger_gets_everything(tmp_path: Path) -> None:
    found = [Recorder(), Recorder()]
    run(tmp_path, logger=found, log_every_n_steps=2)
    for recorder in found:
        assert recorder.metrics["online/loss"] == [2, 4, 6]
        assert {"online/accuracy", "stats/grad_norm", "lr", "val/accuracy", "val/loss"} <= recorder.metrics.keys()


def test_every_logger_of_lightning_has_the_interface_that_is_used() -> None:
    """The command line takes these alone; W&B and MLflow are tried where they are installed."""
    taken = {name: issubclass(getattr(loggers, name), loggers.Logger) for name in loggers.__all__}
    said = {name: "honoured" if is_taken else "refused" for name, is_taken in taken.items()}
    assert said == {name: status for name, status in ROWS["Loggers"].items() if name in said}


PROFILERS = {
    "AdvancedProfiler": profilers.AdvancedProfiler,
    "PassThroughProfiler": profilers.PassThroughProfiler,
    "Profiler": type("Own", (profilers.Profiler,), {"start": lambda *_: None, "stop": lambda *_: None}),
    "PyTorchProfiler": lambda: profilers.PyTorchProfiler(dirpath=".", filename="profile"),
    "SimpleProfiler": lambda: profilers.SimpleProfiler(dirpath=".", filename="profile"),
}


def test_every_profiler_is_tried() -> None:
    assert dict.fromkeys(PROFILERS, "honoured") | {"XLAProfiler": "refused"} == ROWS["Profilers"]


@pytest.mark.parametrize("name", PROFILERS)
def test_a_profiler_profiles(name: str, tmp_path: Path) -> None:
    trainer, _ = run(tmp_path, profiler=PROFILERS[name](), max_steps=2)
    assert trainer.global_step == 2
    said = {"SimpleProfiler": "optimizer_step", "PyTorchProfiler": "aten::"}.get(name)
    assert said is None or said in Path("fit-profile.txt").read_text()


PRECISIONS: dict[str, Callable[[], Any]] = {
    "DoublePrecision": plugins.DoublePrecision,
    "MixedPrecision": lambda: plugins.MixedPrecision("bf16-mixed", "cpu"),
    "Precision": plugins.Precision,
}
REFUSED_PLUGINS: dict[str, Callable[[], Any]] = {
    "HalfPrecision": lambda: plugins.HalfPrecision("bf16-true"),
    "LayerSync": lambda: type("Own", (plugins.LayerSync,), {"apply": lambda *_: None, "revert": lambda *_: None})(),
    "TorchSyncBatchNorm": plugins.TorchSyncBatchNorm,
}
OF_MACHINES = {
    "BitsandbytesPrecision", "DeepSpeedPrecision", "FSDPPrecision", "TransformerEnginePrecision", "XLAPrecision",
}  # fmt: skip
"""Refused by their class; they cannot be built on every machine."""
OF_CHECKPOINTS = {"AsyncCheckpointIO", "CheckpointIO", "TorchCheckpointIO", "XLACheckpointIO"}
"""Refused on the command line: tests/cli/test_lightning_options.py."""


def test_every_plugin_is_tried() -> None:
    refused = {*REFUSED_PLUGINS, *OF_MACHINES, *OF_CHECKPOINTS}
    assert dict.fromkeys(PRECISIONS, "honoured") | dict.fromkeys(refused, "refused") == ROWS["Plugins"]


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_plugin_that_is_honoured(name: str, tmp_path: Path) -> None:
    assert run(tmp_path, plugins=PRECISIONS[name](), max_steps=1)[0].global_step == 1


@pytest.mark.parametrize("name", REFUSED_PLUGINS)
def test_a_plugin_that_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^trainer\.(precision|sync_batchnorm): [^\n]*$"):
        run(tmp_path, plugins=REFUSED_PLUGINS[name]())


@pytest.mark.parametrize("name", sorted(OF_MACHINES))
def test_a_precision_that_changes_the_layers_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.plugins: {name} [^\n]*$"):
        check_precision_plugin(getattr(plugins, name))


def test_nodes_that_cannot_be_found_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", strategy="ddp", devices=1, num_nodes=2, max_epochs=1, **options)
    monkeypatch.setattr(trainer._accelerator_connector, "use_distributed_sampler", False)
    with pytest.raises(ValueError, match=r"^trainer\.num_nodes: 2: the other nodes cannot be found"):
        check_trainer(trainer, training=True)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("NODE_RANK", "1")
    check_trainer(trainer, training=True)


@pytest.mark.parametrize(
    "name", ["DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy", "ParallelStrategy", "Strategy"]
)
def test_a_strategy_that_divides_parameters_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class itself, on a trainer whose strategy it is: most cannot be built without a GPU."""
    assert ROWS["Strategies and accelerators"][name] == "refused"
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    stub = type(name, (getattr(strategies, name),), {"__init__": lambda _: None})
    stub.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    monkeypatch.setattr(trainer._accelerator_connector, "strategy", stub())
    with pytest.raises(ValueError, match=rf"^trainer.strategy: {name} .*; take ddp"):
        check_strategy(trainer)


@pytest.mark.parametrize("strategy", [strategies.SingleDeviceStrategy("cpu"), "ddp"])
def test_a_strategy_that_is_honoured(strategy: Any) -> None:
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    check_trainer(pl.Trainer(accelerator="cpu", strategy=strategy, devices=1, max_epochs=1, **options), training=True)


def test_training_options_do_not_concern_a_validation(tmp_path: Path) -> None:
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", limit_train_batches=0, default_root_dir=tmp_path, **options)
    assert "val/accuracy" in trainer.validate(module(), datamodule=data(), verbose=False)[0]
