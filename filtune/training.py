"""``fit`` and ``validate``: Lightning's command line, with configurations that are merged before it parses them."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from filtune.datamodules import StreamDataModule
from filtune.experiments.classes import classes
from filtune.experiments.composition import notice
from filtune.lightning_modules import OnlineModule, Schedule, check_precision
from filtune.lightning_modules.callbacks import RunPage, RunSummary, StreamCheckpoint
from filtune.lightning_modules.launch import is_first, quiet
from filtune.lightning_modules.runs import LAST, CheckpointError, RunConfig, RunName, last_folder, new_folder
from filtune.lightning_modules.trainer_checks import check_trainer
from filtune.optimizers import OnlineOptimizer

from .arguments import choose_class, read_line
from .explain import Schema, check, condensed, explain, take_texts
from .trainer_options import (
    check_checkpoint_name,
    check_options,
    finish_loggers,
    has_own_logger,
    is_checkpointing,
    named_loggers,
    refusals_of_lightning,
    trainer_arguments,
)

ABOUT = {
    "fit": "Learn from a stream of samples, one at a time, and score every prediction before it is learned from.",
    "validate": "Score the model of a checkpoint on the validation samples.",
}
MORE = (
    "Configurations are merged in order, then the options of the command line: --config task/sst2 --config "
    "backbone/minilm --optimizer loko --optimizer.p0 0.1. --optimizer.help LoKO and --data.help TextDataModule list "
    "the options of a class; without a name they list the classes."
)


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml``; over that of a run that is resumed only once its checkpoint has been accepted."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file of a new run."""
        folder = trainer.log_dir
        resumed = folder is not None and (Path(folder) / self.config_filename).exists()
        if not trainer.strategy.broadcast(resumed):
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file of a resumed run."""
        super().setup(trainer, pl_module, "fit")


class FiltuneCLI(LightningCLI):
    """``fit`` and ``validate``, configured by YAML files that compose in any order.

    Args:
        args: Command line without the program's name: the command, then its options.

    Raises:
        ValueError: Naming what is wrong with the command line or a configuration, and the remedy.
    """

    def __init__(self, args: list[str]) -> None:
        self.folder: Path | None = None
        self.scratch: TemporaryDirectory | None = None
        self.command = args[0]
        for section in ("optimizer", "data"):
            classes(section)  # imported, so that the parser finds their names
        super().__init__(
            OnlineModule,
            StreamDataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_defaults={"max_epochs": 1, "precision": "32-true"},
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"exit_on_error": False, "prog": "filtune", self.command: {"exit_on_error": False}},
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the trainer's method that is run; the parser of the other need not be built."""
        skipped = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule", "weights_only"}
        return {self.command: skipped}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        kwargs |= {"description": ABOUT[subcommand], "epilog": MORE}
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Merge the configurations, check that every option exists, and parse the result."""
        own = self._subcommand_parsers[self.command]
        asked = [arg for arg in args[1:] if arg in ("-h", "--help") or re.match(r"--[\w.]+\.help(=|$)", arg)]
        if asked:
            self.config = parser.parse_args([self.command, asked[0]])
            return
        line, schema = read_line(args[1:]), Schema(own, self.command)
        check(line, schema)
        line = take_texts(line, schema)
        given = ["--config", json.dumps(line.config, default=str)] if line.config else []
        try:
            self.config = parser.parse_args([self.command, *given, *(option.argument for option in line.options)])
        except (ArgumentError, TypeError, ValueError) as error:
            raise ValueError(explain(error, line, schema)) from error

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--optimizer`` and ``--run``."""
        parser.add_optimizer_args((OnlineOptimizer,), "optimizer", link_to="model.optimizer_init")
        parser.add_class_arguments(RunConfig, "run")
        parser.set_defaults({"model.schedule": asdict(Schedule())})  # so that config.yaml has it in full

    def before_instantiate_classes(self) -> None:
        """Check the trainer and the baselines before anything is read or built.

        Raises:
            ValueError: Naming what is missing or invalid.
        """
        trainer = self._get(self.config, "trainer")
        check_precision(trainer.get("precision"))
        check_options(trainer, self._get(self.config, "model").get("on_divergence"))
        check_checkpoint_name(self._get(self.config, "ckpt_path"), trainer, self.command)
        for baseline in self._get(self.config, "run").baselines:
            choose_class({}, "optimizer", baseline, "--run.baselines")

    def instantiate_classes(self) -> None:
        """Build model, data module and trainer; an error of theirs is reported without the frame of the parser."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            raise ValueError(condensed(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer of a run: one folder, atomic checkpoints, a progress bar, a summary."""
        given = self._get(self.config_init, "trainer")
        self._dump_config()
        self.model.run_config = {k: v for k, v in self.config_dump.items() if k != "ckpt_path"}
        kwargs |= trainer_arguments(given, training=self.subcommand == "fit")
        if self.subcommand == "fit":
            name = self._name()
            self.folder = self._open_folder(name)
            kwargs["default_root_dir"] = str(self.folder)  # where Lightning puts what has no folder of its own
            if has_own_logger(given):
                own = TensorBoardLogger(
                    self.folder.parents[1], "", f"{name.stem}/{self.folder.name}", default_hp_metric=False
                )
                kwargs["logger"] = [own, *named_loggers(given)]
            kwargs["callbacks"] += [
                RunPage(self.model.run_config, given.get("enable_autolog_hparams", True)),
                RunSummary(self.folder, name.optimizer, self.model.run_config),
            ]
            if is_checkpointing(given):
                interval = self._get(self.config_init, "run").save_interval
                kwargs["callbacks"].append(StreamCheckpoint(self.folder / "checkpoints", interval))
        else:
            self.save_config_callback = None
        with refusals_of_lightning(given):
            trainer = super().instantiate_trainer(**kwargs)
        check_trainer(trainer, training=self.subcommand == "fit")
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with refusals_of_lightning():
                super()._run_subcommand(subcommand)
        finally:
            if self.scratch is not None:
                self.scratch.cleanup()

    @property
    def baselines(self) -> list[str]:
        """Names of the optimizers that learn from the same stream afterwards."""
        return self._get(self.config_init, "run").baselines

    @property
    def is_resumed(self) -> bool:
        """Whether the newest run of this name is resumed: then so are its baselines."""
        return self._get(self.config, "ckpt_path") == "last"

    @property
    def is_dev_run(self) -> bool:
        """Whether a few batches are run to find errors, and nothing is kept (``trainer.fast_dev_run``)."""
        return bool(self._get(self.config_init, "trainer").get("fast_dev_run"))

    def save_config(self, path: Path) -> None:
        """Write the composed configuration, with which another optimizer is run."""
        self._parser(self.command).save(self.config[self.command], str(path), skip_none=False)

    def _parse_ckpt_path(self) -> None:
        """Ignore the configuration in the checkpoint; OnlineModule refuses one that contradicts the command line."""

    def _name(self) -> RunName:
        return RunName(
            task=self.datamodule.label,
            backbone=self.model.backbone_config.name,
            optimizer=self._get(self.config, "optimizer")["class_path"].rpartition(".")[2],
            seed=self._get(self.config, "seed_everything"),
        )

    def _open_folder(self, name: RunName) -> Path:
        root = Path(self._get(self.config_init, "run").root)
        if self.is_dev_run:
            self.scratch = TemporaryDirectory()
            root = Path(self.scratch.name)
        if self._get(self.config, "ckpt_path") == "last":
            return last_folder(root, name)
        return new_folder(root, name) if is_first() else root / name.experiment / name.stem / "of_the_first_process"

    def after_fit(self) -> None:
        """Broadcast the folder to every process."""
        self.folder = Path(self.trainer.strategy.broadcast(str(self.folder)))
        if not self.trainer.global_step:
            raise ValueError("trainer: the run ended before its first step; allow a larger trainer.max_time")
        if getattr(self.model, "timer", None) is None:  # it is made when training starts
            notice(f"the run had ended at step {self.trainer.global_step}, no step was added; raise trainer.max_epochs")

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        if kwargs.get("ckpt_path") == "last":
            folder = self.folder or last_folder(Path(self._get(self.config_init, "run").root), self._name())
            kwargs["ckpt_path"] = str(folder / "checkpoints" / LAST)
        return kwargs


def fit(args: list[str]) -> None:
    """Fit, then fit the baselines on the same stream, and show their results side by side.

    Args:
        args: The options of the command.
    """
    from filtune.reports import compare

    quiet()
    cli = FiltuneCLI(["fit", *args])
    assert cli.folder is not None
    if cli.is_dev_run:
        _dev_run_baselines(cli)
        return
    folders = [cli.folder]
    if cli.baselines:
        finish_loggers(named_loggers(cli.config_init["fit"]["trainer"]))
    for name in cli.baselines:
        same = ["--config", str(cli.folder / "config.yaml"), f"--optimizer={name}", "--run.baselines=[]"]
        if cli.is_resumed:
            try:
                folders.append(_fit_folder([*same, "--ckpt_path=last"]))
                continue
            except CheckpointError:
                pass  # it had not begun
        folders.append(_fit_folder([*same, "--ckpt_path=null"]))
    if is_first():
        compare.print_runs(folders)


def _dev_run_baselines(cli: FiltuneCLI) -> None:
    """Run a few batches with each baseline, and report that there was no error."""
    with TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        cli.save_config(config)
        for name in cli.baselines:
            FiltuneCLI(["fit", "--config", str(config), f"--optimizer={name}", "--run.baselines=[]"])
    if is_first():
        print(f"fast_dev_run: {cli.trainer.max_steps} steps and the validation ran without an error; nothing is kept")


def _fit_folder(args: list[str]) -> Path:
    cli = FiltuneCLI(["fit", *args])
    assert cli.folder is not None
    finish_loggers(named_loggers(cli.config_init["fit"]["trainer"]))
    return cli.folder


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


def option_names(command: str) -> list[str]:
    """Return the options of ``fit`` or ``validate`` that do not depend on a class."""
    try:
        _ParserOnly([command])
    except _Built as built:
        return [f"--{key}" for key in Schema(built.parser, command).hints]
    raise AssertionError
