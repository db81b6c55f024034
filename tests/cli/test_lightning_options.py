"""What the command line makes of Lightning's options, where it does not hand them to the trainer as they are.

The commands run in this process: what is tried is what they do and leave, not the process.
"""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filtune.lightning_modules import OnlineModule
from filtune.lightning_modules.callbacks import summary

from filtune import cli

DIGITS = [
    "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--data.max_samples=6",
    "--data.max_val_samples=8", "--data.val_batch_size=4",
]  # fmt: skip
SGD = "--config=optimizer/sgd"
QUIET = "--trainer.enable_progress_bar=false"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own; what a command sets for its process is set back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric.utilities.seed")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def fit(*options: str, base: tuple[str, ...] = (*DIGITS, SGD, QUIET)) -> None:
    """Run ``filtune fit``, which must succeed."""
    cli.main(["fit", *base, *options])


def refused(capsys: pytest.CaptureFixture, *args: str, left: bool = False) -> str:
    """The line that a command ends with, which must be its only one; nothing may be left of a run."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(list(args))
    assert end.value.code == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith(("Seed set to", "INFO: Seed set to"))]
    assert len(lines) == 1, lines
    assert lines[0].startswith("filtune: error: ")
    assert left or not list(Path().rglob("config.yaml"))
    return lines[0].removeprefix("filtune: error: ")


def only_run() -> Path:
    (config,) = Path().rglob("config.yaml")
    return config.parent


def names(folder: Path) -> set[str]:
    """Names of the files of a run that are not hidden; those of events without their end."""
    return {path.name.partition(".out.")[0] for path in folder.rglob("[!.]*") if path.is_file()}


def columns(folder: str) -> set[str]:
    (file,) = Path(folder).rglob("metrics.csv")
    return set(next(csv.reader(file.open())))


CSV = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"]


def test_a_logger_that_is_named_gets_what_tensorboard_gets(capsys: pytest.CaptureFixture) -> None:
    """Fault 13; a baseline has a version of its own, and TensorBoard's files are beside."""
    fit(*CSV, "--run.baselines=[adamw]", "--trainer.log_every_n_steps=2")
    first, second = sorted(Path("logs").rglob("metrics.csv"))
    for file in (first, second):
        rows = list(csv.DictReader(file.open()))
        assert {"online/accuracy", "online/loss", "stats/grad_norm", "lr", "val/loss"} <= rows[0].keys()
        assert [row["step"] for row in rows if row["online/loss"]] == ["2", "4", "6"]
        assert any(row["final/online_accuracy"] for row in rows)
        options = yaml.unsafe_load((file.parent / "hparams.yaml").read_text())
        assert options["data"]["init_args"]["max_samples"] == 6
    folders = [path.parent for path in Path("runs").rglob("config.yaml")]
    assert all("events" in names(folder) for folder in folders)
    printed = capsys.readouterr().out
    assert "tensorboard --logdir" in printed
    assert printed.count("data digits") == 1  # of both runs
    assert summary.versions() is summary.versions()  # read once


def test_autolog_hparams_false_keeps_the_configuration_from_it() -> None:
    fit(*CSV, "--trainer.enable_autolog_hparams=false")
    assert "online/loss" in columns("logs")
    assert not list(Path("logs").rglob("hparams.yaml"))


def test_no_logger_and_no_checkpoints(capsys: pytest.CaptureFixture) -> None:
    fit("--trainer.logger=false", "--trainer.enable_checkpointing=false")
    assert names(Path("runs")) == {"config.yaml", "predictions.json", "summary.json"}
    assert "tensorboard" not in capsys.readouterr().out
    cli.main(["compare", "runs"])
    assert "SGD" in capsys.readouterr().out


def test_barebones() -> None:
    fit("--trainer.barebones=true")
    assert names(Path("runs")) == {"config.yaml", "predictions.json", "summary.json"}


def test_a_validation_by_the_configuration_of_a_run_with_a_model_checkpoint(capsys: pytest.CaptureFixture) -> None:
    """Fault 14; and the logger that is named gets its scores."""
    best = ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.monitor=online/loss"]
    fit(*best, "--trainer.callbacks.filename=b")
    run = only_run()
    assert {"last.ckpt", "b.ckpt"} <= names(run)
    before = names(Path())
    cli.main(["validate", f"--config={run}/config.yaml", "--ckpt_path=last", QUIET])
    assert "val accuracy" in capsys.readouterr().out
    assert names(Path()) == before
    cli.main(["validate", f"--config={run}/config.yaml", f"--ckpt_path={run}/checkpoints/b.ckpt", QUIET, *CSV])
    assert "val/accuracy" in columns("logs")


def test_fast_dev_run_leaves_nothing(capsys: pytest.CaptureFixture) -> None:
    """Fault 15; the baselines are tried as well."""
    fit()
    run, before = only_run(), sorted(Path().rglob("*"))
    fit("--trainer.fast_dev_run=2", "--run.baselines=[loko]", *CSV)
    assert sorted(Path().rglob("*")) == before
    printed = capsys.readouterr().out
    assert "2 steps and the validation ran without an error" in printed
    assert printed.count("data digits") == 2  # of the run before, and once of the try and its baseline
    cli.main(["validate", f"--config={run}/config.yaml", "--ckpt_path=last", QUIET])
    said = refused(capsys, "fit", *DIGITS, SGD, "--trainer.fast_dev_run=true", "--ckpt_path=last", left=True)
    assert said.startswith("trainer.fast_dev_run: resumes no run")


def test_without_a_trainer_configuration_a_run_is_one_pass() -> None:
    """Fault 18; and with ``null`` as well."""
    base = (*DIGITS[1:], SGD, QUIET)
    fit("--trainer.accelerator=cpu", base=base)
    fit("--trainer.accelerator=cpu", "--trainer.max_epochs=null", base=base)
    assert [json.loads(path.read_text())["samples"] for path in Path().rglob("summary.json")] == [6, 6]


def test_a_step_is_logged_and_divergence_is_watched_without_regular_points() -> None:
    """Fault 17: the end of an epoch is a point of its own."""
    fit("--trainer.log_every_n_steps=0", *CSV)
    assert {"online/loss", "final/online_loss"} <= columns("logs")


def test_progress_bar_and_summary(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    fit("--trainer.enable_progress_bar=true", "--trainer.enable_model_summary=true", base=(*DIGITS, SGD))
    said = capsys.readouterr()
    assert "61.7 K" in said.out + said.err
    assert "accuracy=" in said.out + said.err
    options = ["--trainer.callbacks=TQDMProgressBar", "--trainer.enable_progress_bar=true"]
    fit(*options, "--trainer.log_every_n_steps=1", base=(*DIGITS, SGD))
    assert "online/accuracy=" in "".join(capsys.readouterr())


def test_early_stopping_acts_after_validations_within_the_stream(tmp_path: Path) -> None:
    given = "{class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 1, min_delta: 99}}"
    fit(f"--trainer.callbacks={given}", "--run.validations=3")
    (summary,) = tmp_path.rglob("summary.json")
    assert json.loads(summary.read_text())["steps"] == 4


def test_a_validation_after_every_batch_leaves_room_for_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = OnlineModule.training_step

    def fail(module: OnlineModule, batch: Any, index: int) -> Any:
        if index == 5:
            raise ZeroDivisionError("killed")
        return learn(module, batch, index)

    monkeypatch.setattr(OnlineModule, "training_step", fail)
    with pytest.raises(ZeroDivisionError, match="killed"):
        fit("--run.validations=6", "--run.save_interval=2")
    (kept,) = tmp_path.rglob("last.ckpt")
    assert torch.load(kept, weights_only=True)["global_step"] == 4


def test_validations_by_time_have_one_at_the_end(tmp_path: Path) -> None:
    fit("--trainer.val_check_interval=00:01:00:00")
    (summary,) = tmp_path.rglob("summary.json")
    assert json.loads(summary.read_text())["val"]


def test_what_a_profiler_and_a_callback_report_is_seen() -> None:
    """Lightning's routine notices are not."""
    given = "{class_path: EarlyStopping, init_args: {monitor: online/loss, patience: 1, min_delta: 99, verbose: true}}"
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("lightning.pytorch").addHandler(handler)
    try:
        fit("--trainer.profiler=simple", f"--trainer.callbacks={given}", "--trainer.val_check_interval=2")
    finally:
        logging.getLogger("lightning.pytorch").removeHandler(handler)
    assert len([line for line in said if "Profiler Report" in line]) == 1
    assert len([line for line in said if "did not improve" in line]) == 1
    assert not [line for line in said if "available" in line or "Tip" in line or "reached" in line]
    assert json.loads((only_run() / "summary.json").read_text())["steps"] == 4


def test_files_without_a_folder_of_their_own_are_in_that_of_the_run() -> None:
    fit("--trainer.profiler={class_path: SimpleProfiler, init_args: {filename: times}}", "--trainer.logger=false")
    assert "fit-times.txt" in names(only_run())


def test_a_timer_by_its_defaults() -> None:
    """One of them is an enumeration, which config.yaml holds by its value."""
    fit("--trainer.callbacks=Timer", "--trainer.callbacks.duration=00:00:01:00")
    assert "interval: step" in (only_run() / "config.yaml").read_text()


SAME = ("num_sanity_val_steps=2", "use_distributed_sampler=true", "gradient_clip_algorithm=norm")


def test_options_that_change_no_result() -> None:
    fit()
    fit(*(f"--trainer.{option}" for option in SAME))
    first, second = (json.loads(path.read_text()) for path in sorted(Path().rglob("summary.json")))
    assert first["val"] == second["val"]
    assert first["online_loss"] == second["online_loss"]


REFUSED = {
    "--trainer.default_root_dir=x": "trainer.default_root_dir: runs are kept under --run.root",
    "--trainer.accelerator=gpu": "trainer: accelerator gpu, devices 1, strategy auto: No supported gpu backend found",
    "--trainer.accelerator=tpu": "trainer.accelerator: TPUs are not supported",
    "--trainer.accelerator=gppu": "trainer.accelerator: You selected an invalid accelerator name",
    "--trainer.devices=99": "trainer.devices: 99 processes are too many for",
    "--trainer.devices=0": "trainer.devices: ",
    "--trainer.strategy=ddpp": "trainer.strategy: You selected an invalid strategy name",
    "--trainer.strategy=fsdp": "trainer.strategy: fsdp does not keep all parameters",
    "--trainer.strategy=ddp_spawn": "trainer.strategy: ddp_spawn: spawn is not for the command line",
    "--trainer.strategy=DeepSpeedStrategy": "trainer.strategy: ",
    "--trainer.num_nodes=2": "trainer.num_nodes: 2: the other nodes cannot be found",
    "--trainer.precision=bf16-true": "trainer.precision: bf16-true rounds the trained parameters",
    "--trainer.precision=16-mixed": "trainer.precision: 16-mixed scales gradients",
    "--trainer.plugins=AsyncCheckpointIO": "trainer.plugins: AsyncCheckpointIO: checkpoints are written by filtune",
    "--trainer.plugins=TorchCheckpointIO": "trainer.plugins: TorchCheckpointIO: checkpoints are written by filtune",
    "--trainer.gradient_clip_val=1": "trainer.gradient_clip_val: 1",
    "--trainer.overfit_batches=5": "trainer.overfit_batches: 5: it validates on training rows",
    "--trainer.limit_train_batches=1.5": "trainer.limit_train_batches: You have passed invalid value 1.5",
    "--trainer.val_check_interval=99": "trainer.val_check_interval: `val_check_interval` (99) must be less than",
    "--trainer.max_time=soon": "trainer.max_time: `Timer(duration='soon')` is not a valid duration",
    "--trainer.barebones=true --trainer.log_every_n_steps=5": "trainer.barebones: ",
    "--trainer.profiler=simpel": "trainer.profiler: ",
    "--trainer.enable_checkpointing=false --ckpt_path=last": "trainer.enable_checkpointing: false leaves no checkpoint",
    "--ckpt_path=best": "ckpt_path: best is known to no new process",
    "--trainer.val_check_interval=0": "trainer.val_check_interval: 0: must be at least 1 batch, a share of an epoch",
    "--ckpt_path=": "ckpt_path: is empty; give the path of a checkpoint, or leave it out",
    "--ckpt_path=hpc": "ckpt_path: hpc is known to no new process",
    "--trainer.logger=CSVLoger": "--trainer.logger: CSVLoger: no such class; did you mean CSVLogger?",
    "--trainer.logger=CSVLogger": "--trainer.logger: CSVLogger needs save_dir; set --trainer.logger.save_dir",
    "--trainer.callbacks=EarlyStopping": "--trainer.callbacks: EarlyStopping needs monitor",
    "--trainer.callbacks=StochasticWeightAveraging --trainer.callbacks.swa_lrs=0.1": "trainer.callbacks: Stochastic",
    "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitr=x": "has no option monitr; did you mean monitor?",
    "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=x": "there is no metric 'x'; there are",
    "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=stats/x": "there is no metric 'stats/x'; there are",
    "--trainer.enable_checkpointing=false --trainer.callbacks=ModelCheckpoint": "trainer.enable_checkpointing: ",
    "--trainer.enable_checkpointing=false --model.on_divergence=rewind": "model.on_divergence: rewind returns to the",
}


@pytest.mark.parametrize("options", REFUSED)
def test_refused_in_one_line_and_nothing_is_left(options: str, capsys: pytest.CaptureFixture) -> None:
    if options == "--trainer.accelerator=gpu" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert REFUSED[options] in refused(capsys, "fit", *DIGITS, SGD, QUIET, *options.split())


def test_a_run_that_ends_before_its_first_step_is_an_error(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        fit("--trainer.max_time=00:00:00:00")
    assert end.value.code == 2
    assert "trainer: the run ended before its first step" in capfd.readouterr().err.splitlines()[-1]


def test_detect_anomaly_reports_in_one_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        fit("--trainer.detect_anomaly=true", "--optimizer.lr=1e30")
    assert end.value.code == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("filtune: error: trainer.detect_anomaly: Function ")
    assert "returned nan values" in said


def test_the_state_of_callbacks_is_resumed() -> None:
    """Their states are in the checkpoint, which is loaded without executing anything."""
    given = [
        "{class_path: EarlyStopping, init_args: {monitor: online/loss, patience: 9}}",
        "{class_path: ModelCheckpoint, init_args: {monitor: online/loss, every_n_train_steps: 2, save_top_k: 2}}",
        "{class_path: Timer, init_args: {duration: '00:01:00:00', interval: step}}",
    ]
    options = [f"--trainer.callbacks=[{', '.join(given)}]", "--trainer.val_check_interval=2"]
    fit(*options)
    fit(*options, "--trainer.max_epochs=2", "--ckpt_path=last")
    assert json.loads((only_run() / "summary.json").read_text())["steps"] == 12
    states = torch.load(only_run() / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    kept = {name.partition("{")[0]: state for name, state in states.items()}
    assert kept["EarlyStopping"]["wait_count"] <= 6
    assert kept["Timer"]["time_elapsed"]["train"] > 0
    best = Path(kept["ModelCheckpoint"]["best_model_path"])
    cli.main(["validate", f"--config={only_run()}/config.yaml", f"--ckpt_path={best}", QUIET])


def test_a_diverged_state_is_in_no_checkpoint_of_the_users(capsys: pytest.CaptureFixture) -> None:
    given = "{class_path: ModelCheckpoint, init_args: {every_n_train_steps: 1, save_top_k: -1}}"
    with pytest.raises(SystemExit) as end:
        fit(f"--trainer.callbacks={given}", "--optimizer.lr=1e30", "--data.max_samples=20")
    assert end.value.code == 3
    assert "non-finite gradients" in capsys.readouterr().err
    for path in Path().rglob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(value.isfinite().all()) for name, value in state.items() if name.startswith("backbone."))


@pytest.mark.parametrize(
    ("name", "options", "file"),
    [
        ("wandb", ["--trainer.logger=WandbLogger", "--trainer.logger.offline=true"], "*.wandb"),
        ("mlflow", ["--trainer.logger=MLFlowLogger", "--trainer.logger.tracking_uri=file:./ml"], "online/loss"),
    ],
)
def test_loggers_of_others(name: str, options: list[str], file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline; a baseline begins a run of its own."""
    pytest.importorskip(name)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(*options, "--run.baselines=[adamw]")
    assert len(list(Path().rglob(file))) == 2


def test_a_sweep_of_development_runs_is_refused(capsys: pytest.CaptureFixture) -> None:
    said = refused(capsys, "sweep", "--config", "quickstart", "--trainer.fast_dev_run", "true")
    assert said.startswith("trainer.fast_dev_run: leaves no result to compare")


def test_a_run_that_is_complete_says_so(capsys: pytest.CaptureFixture) -> None:
    """Steps end a run as epochs do; more of them need an epoch in which to be."""
    fit("--trainer.max_steps=3")
    fit("--trainer.max_steps=5", "--ckpt_path=last")
    assert "the run had ended at step 3, no step was added; raise trainer.max_epochs" in capsys.readouterr().err
    fit("--trainer.max_steps=5", "--trainer.max_epochs=2", "--ckpt_path=last")
    assert "no step was added" not in capsys.readouterr().err
    assert json.loads((only_run() / "summary.json").read_text())["samples"] == 5
