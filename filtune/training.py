"""``filtune fit`` and ``filtune validate``."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from filtune.lightning_modules import signals
from filtune.lightning_modules.callbacks import has_announced
from filtune.lightning_modules.callbacks.stopping import agreed_signal
from filtune.lightning_modules.launch import is_first, quiet
from filtune.lightning_modules.resume import Baseline
from filtune.lightning_modules.runs import CONFIG

from .explain import Schema
from .lightning_cli import FiltuneCLI
from .trainer_options import finish_loggers, named_loggers


def fit(args: list[str]) -> None:
    """Fit, then fit the baselines on the same stream, and show their results side by side.

    Resumed, completed runs are kept, the one that was killed goes on, and those that were not begun start.

    Args:
        args: The options of the command.

    Raises:
        Stopped: If a signal came.
    """
    from filtune.reports import compare

    quiet()
    with ExitStack() as locks:
        cli = FiltuneCLI(["fit", *args], locks)
        _stop_if_asked(cli)
        assert cli.folder is not None
        if cli.is_dev_run:
            _dev_run_baselines(cli)
            return
        folders, is_announced = [cli.folder], has_announced(cli.trainer)
        resumed = "last" if cli.is_resumed else "null"
        for name in cli.baselines:
            finish_loggers(named_loggers(cli.config_init["fit"]["trainer"]))
            same = ["--config", str(cli.folder / CONFIG), f"--optimizer={name}", "--run.baselines=[]"]
            place = Baseline(cli.folder, name, cli.model.data_fingerprint)
            baseline = FiltuneCLI(["fit", *same, f"--ckpt_path={resumed}"], locks, place, not is_announced)
            is_announced = is_announced or has_announced(baseline.trainer)
            _stop_if_asked(baseline)
            assert baseline.folder is not None
            folders.append(baseline.folder)
            finish_loggers(named_loggers(baseline.config_init["fit"]["trainer"]))
    if is_first():
        compare.print_runs(folders)


def _stop_if_asked(cli: FiltuneCLI) -> None:
    """Stop after a run in whose last step a signal came to one of its processes.

    Raises:
        Stopped: If one came, on all of them.
    """
    if number := agreed_signal(cli.trainer):
        raise signals.Stopped(number)


def _dev_run_baselines(cli: FiltuneCLI) -> None:
    """Run a few batches with each baseline, and report that there was no error."""
    with TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        cli.save_config(config)
        for name in cli.baselines:
            FiltuneCLI(["fit", "--config", str(config), f"--optimizer={name}", "--run.baselines=[]"], announces=False)
    if is_first():
        print(f"fast_dev_run: {cli.trainer.max_steps} steps and the validation ran without an error; nothing is kept")


def validate(args: list[str]) -> None:
    """Validate a checkpoint.

    Args:
        args: The options of the command.
    """
    quiet()
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")  # they save checkpoints
    FiltuneCLI(["validate", *args])


class _Built(Exception):
    """The parser has been built."""

    def __init__(self, parser: LightningArgumentParser) -> None:
        self.parser = parser


class _ParserOnly(FiltuneCLI):
    """The command line up to its parser."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        raise _Built(self._subcommand_parsers[self.command])


def schema_of(command: str) -> Schema:
    """Return the options of ``fit`` or ``validate``; an error if the command line builds no parser."""
    try:
        _ParserOnly([command])
    except _Built as built:
        return Schema(built.parser, command)
    raise AssertionError
