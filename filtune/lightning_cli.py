"""``fit`` and ``validate``: Lightning's command line, with configurations that are merged before it parses them."""

from __future__ import annotations

import json
import os
import re
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jsonargparse import ArgumentError
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from filtune.datamodules import StreamDataModule
from filtune.experiments.classes import classes, optimizer_label
from filtune.experiments.composition import notice
from filtune.lightning_modules import OnlineModule, Schedule, check_precision
from filtune.lightning_modules.atomic import reason_full
from filtune.lightning_modules.callbacks import RunPage, RunSummary, SameStream, StreamCheckpoint
from filtune.lightning_modules.integrity import DamagedFile, read_yaml
from filtune.lightning_modules.launch import is_first, other_process_lost
from filtune.lightning_modules.locks import FolderLock
from filtune.lightning_modules.resume import (
    Baseline,
    has_config,
    is_of_job,
    is_requeued,
    keep_baseline,
    keep_job,
    kept_baseline,
    open_begun,
    slurm_job,
)
from filtune.lightning_modules.run_files import remove_created
from filtune.lightning_modules.runs import (
    CONFIG,
    LAST,
    RunConfig,
    RunName,
    find_checkpoint,
    find_run,
    last_folder,
    new_folder,
    resumed_folder,
    unreadable,
)
from filtune.lightning_modules.tensorboard import RunLogger
from filtune.lightning_modules.trainer_checks import check_trainer
from filtune.lightning_modules.trust import SWITCH
from filtune.optimizers import OnlineOptimizer

from .arguments import CommandLine, choose_class, read_line, with_run_config
from .explain import Schema, check, condensed, explain, take_texts, written
from .final_figures import write_figures
from .named_classes import check_classes, own_classes, restricted
from .save_config import SaveConfig
from .trainer_options import (
    check_checkpoint_name,
    check_options,
    has_launched_processes,
    has_own_logger,
    is_checkpointing,
    named_loggers,
    refusals_of_lightning,
    timing_callbacks,
    trainer_arguments,
)
from .validation import Validation
from .value_checks import check_optimizer, check_root, check_seed

ABOUT = {
    "fit": "Learn from a stream of samples, one at a time, and score every prediction before it is learned from.",
    "validate": "Score the model of a checkpoint on the validation samples.",
}
MORE = (
    "Configurations are merged in order, then the options of the command line: --config task/sst2 --config "
    "backbone/minilm --optimizer loko --optimizer.p0 0.1. --optimizer.help LoKO and --data.help TextDataModule list "
    "the options of a class; without a name they list the classes."
)
OWN = (
    f" {SWITCH} my_module.MyBackbone, which may be repeated, names a class of your own that a run's configuration "
    "names; no other is imported from there."
)


class FiltuneCLI(LightningCLI):
    """``fit`` and ``validate``, configured by YAML files that compose in any order.

    Args:
        args: Command line without the program's name: the command, then its options.
        locks: Holds the lock of the run's folder until the command ends.
        place: Where the run belongs, if it is a baseline.
        announces: Whether the line of the data is printed, which is that of all runs of a command.

    Raises:
        ValueError: Naming what is wrong with the command line or a configuration, and the remedy.
    """

    def __init__(
        self, args: list[str], locks: ExitStack | None = None, place: Baseline | None = None, announces: bool = True
    ) -> None:
        self.folder: Path | None = None
        self.command, self._place, self._announces = args[0], place, announces
        self._locks = locks if locks is not None else ExitStack()
        self.scratch: TemporaryDirectory | None = None
        self._is_begun = False
        for section in ("optimizer", "data"):
            classes(section)  # imported, so that the parser finds their names
        try:
            super().__init__(
                OnlineModule,
                StreamDataModule,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                trainer_defaults={"max_epochs": 1, "precision": "32-true"},
                save_config_callback=SaveConfig,
                parser_kwargs={"exit_on_error": False, "prog": "filtune", self.command: {"exit_on_error": False}},
                args=args,
            )
        except Exception:
            self._leave_nothing()
            raise

    def _leave_nothing(self) -> None:
        """Remove the folder of a run that was refused before it began."""
        if self.folder is not None and is_first() and not self._is_begun and not os.path.exists(self.folder / CONFIG):
            remove_created(self.folder)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the trainer's method that is run; the parser of the other need not be built."""
        skipped = {
            "model",
            "train_dataloaders",
            "val_dataloaders",
            "dataloaders",
            "datamodule",
            "weights_only",
            "verbose",
        }
        return {self.command: skipped}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        kwargs |= {"description": ABOUT[subcommand], "epilog": MORE + (OWN if subcommand == "validate" else "")}
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Merge the configurations, check that every option exists, and parse the result."""
        own = self._subcommand_parsers[self.command]
        asked = [arg for arg in args[1:] if arg in ("-h", "--help") or re.match(r"--[\w.]+\.help(=|$)", arg)]
        if asked:
            self.config = parser.parse_args([self.command, asked[0]])
            return
        named, rest = own_classes(self.command, args[1:])
        rest = rest if self.command == "fit" else with_run_config(rest)
        line, schema = read_line(rest, named), Schema(own, self.command)
        if self.command == "validate":
            for part in line.parts:
                read_yaml(part)  # refuses the configuration of a run that is damaged
        check(line, schema)
        line = restricted(line, schema)
        self.config = self._parsed(parser, line, schema)
        check_classes(self.config[self.command], line.own)
        self._check_values(parser, line, schema)

    def _parsed(self, parser: LightningArgumentParser, line: CommandLine, schema: Schema) -> Any:
        """Return what the parser makes of a command line.

        Raises:
            ValueError: Naming the option that has no value of its type.
        """
        line = take_texts(line, schema)
        given = ["--config", json.dumps(line.config, default=str)] if line.config else []
        try:
            return parser.parse_args([self.command, *given, *(option.argument for option in line.options)])
        except (ArgumentError, TypeError, ValueError) as error:
            raise ValueError(explain(error, line, schema)) from error

    def _check_values(self, parser: LightningArgumentParser, line: CommandLine, schema: Schema) -> None:
        """Check the seed, the folder of runs, the optimizer and its baselines before anything is read.

        Raises:
            ValueError: Naming the option and what it must be.
        """
        config = self.config[self.command]
        if self.command != "fit":
            return
        check_seed(config.seed_everything, written(line, "seed_everything"))
        if not config.trainer.fast_dev_run:
            check_root(config.run.root, written(line, "run.root"))
        check_optimizer(config, lambda key: written(line, key))
        for name in config.run.baselines:
            if config.run.baselines.count(name) > 1:
                raise ValueError(f"{written(line, 'run.baselines')}: {name} is there twice; leave one out")
            others = {key: value for key, value in line.config.items() if key != "optimizer"}
            options = [option for option in line.options if option.key.partition(".")[0] != "optimizer"]
            chosen = choose_class(others, "optimizer", name, "--run.baselines")
            baseline = replace(line, config=chosen, options=options)
            label = f"{written(line, 'run.baselines')} {name}"
            try:
                found = self._parsed(parser, baseline, schema)[self.command]
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
            check_optimizer(found, lambda key, label=label: f"{label}: {key}", is_baseline=True)

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

    def instantiate_classes(self) -> None:
        """Build model, data module and trainer; an error of theirs is raised without the frame of the parser."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            raise ValueError(condensed(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer of a run, with its folder and callbacks; a folder that is refused is an error."""
        given = self._get(self.config_init, "trainer")
        self._dump_config()
        self.model.run_config = {k: v for k, v in self.config_dump.items() if k != "ckpt_path"}
        kwargs |= trainer_arguments(given, training=self.subcommand == "fit")
        refusal: Exception | None = None
        if self.subcommand == "fit":
            refusal = self._open(name := self._name())
            assert self.folder is not None
            # where Lightning puts what has no folder of its own, as its checkpoint when SLURM requeues the job
            kwargs["default_root_dir"] = str(self.folder / ("checkpoints" if SLURMEnvironment.detect() else ""))
            self.save_config_kwargs = {"folder": self.folder, "refusal": refusal}
            if has_own_logger(given):
                own = RunLogger(self.folder.parents[1], "", f"{name.stem}/{self.folder.name}")
                kwargs["logger"] = [own, *named_loggers(given)]
            config, is_new, run = self.model.run_config, not self._is_begun, self._get(self.config_init, "run")
            kwargs["callbacks"] = [
                *timing_callbacks(given, run.validations),
                *kwargs["callbacks"],
                RunPage(config, given.get("enable_autolog_hparams", True)),
                RunSummary(self.folder, name.optimizer, config, is_new, write_figures, self._announces),
                SameStream(self._place.stream if self._place else None),
            ]
            if is_checkpointing(given):
                kwargs["callbacks"].append(StreamCheckpoint(self.folder / "checkpoints", run.save_interval))
        else:
            self.save_config_callback = None
            kwargs["callbacks"].append(Validation())
        if refusal is not None:  # only to tell the other processes
            kwargs |= {"logger": False, "callbacks": []}
        with refusals_of_lightning(given):
            trainer = super().instantiate_trainer(**kwargs)
        check_trainer(trainer, training=self.subcommand == "fit")
        if refusal is not None and (self.is_dev_run or not has_launched_processes(trainer)):
            raise refusal
        return trainer

    @property
    def baselines(self) -> list[str]:
        """Names of the optimizers that learn from the same stream afterwards."""
        return self._get(self.config_init, "run").baselines

    @property
    def is_resumed(self) -> bool:
        """True if all runs of the command that were begun are resumed: asked for, or requeued by SLURM."""
        path = self._get(self.config, "ckpt_path")
        return path == "last" or (path is None and is_requeued() and slurm_job() is not None)

    @property
    def is_dev_run(self) -> bool:
        """True if a few batches are run to find errors, and nothing is kept (``trainer.fast_dev_run``)."""
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
            optimizer=optimizer_label(self._get(self.config, "optimizer").as_dict()),
            seed=self._get(self.config, "seed_everything"),
        )

    def _open(self, name: RunName) -> Exception | None:
        """Open the run's folder; return why that is refused, for other processes may wait for this one."""
        try:
            self.folder = self._open_folder(name)
        except (ValueError, OSError) as error:
            self.folder = name.folder(self._root) / "refused"
            return error
        return None

    @property
    def _root(self) -> Path:
        return Path(self._get(self.config_init, "run").root)

    def _open_folder(self, name: RunName) -> Path:
        """Return the run's folder, locked by the first process of the run until the command ends.

        Raises:
            CheckpointError: If a run is to be resumed and none was begun.
            FolderInUse: If another command writes into the folder.
            MisplacedFile: If the folder is of a run that is resumed, and a link leads out of it.
            DamagedFile: If the folder is of a run that is resumed, and a file in it is damaged.
        """
        root = self._root
        if self.is_dev_run:
            self.scratch = TemporaryDirectory()
            return new_folder(Path(self.scratch.name), name)
        folder = self._begun_folder(root, name) if self.is_resumed else None
        if not is_first():
            return folder or name.folder(root) / "of_the_first_process"
        self._is_begun, folder = folder is not None, folder or new_folder(root, name)
        lock = FolderLock(folder, remedy="start a new run without --ckpt_path")
        self._locks.callback(lock.release)
        if self._is_begun:
            open_begun(folder, lock)
        else:
            lock.acquire()
        keep_job(folder)
        if self._place is not None:
            keep_baseline(self._place.run, self._place.name, folder)
        return folder

    def _begun_folder(self, root: Path, name: RunName) -> Path | None:
        def matches(folder: Path) -> bool:
            is_last = self._get(self.config, "ckpt_path") == "last"
            return has_config(folder, self.model.run_config, type(self.model)) and (is_last or is_of_job(folder))

        if self._place is not None:
            return kept_baseline(self._place.run, self._place.name) or find_run(root, name, matches)
        if self._get(self.config, "ckpt_path") == "last":
            return resumed_folder(root, name, matches)
        return find_run(root, name, matches)

    def after_fit(self) -> None:
        """Broadcast the folder to every process; a run that ended before its first step is an error."""
        self.folder = Path(self.trainer.strategy.broadcast(str(self.folder)))
        if not self.trainer.global_step:
            raise ValueError("trainer: the run ended before its first step; allow a larger trainer.max_time")
        if self.model.timer.median() is None:
            notice(f"the run had ended at step {self.trainer.global_step}, no step was added; raise trainer.max_epochs")

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        if subcommand == "validate":
            kwargs["verbose"] = False  # Lightning's table; see Validation
        if subcommand == "fit" and self.is_resumed and self.folder is not None:
            saved = self.folder / "checkpoints" / LAST
            kwargs["ckpt_path"] = str(saved) if saved.is_file() else None
        elif kwargs.get("ckpt_path") == "last":
            folder = last_folder(self._root, self._name())
            kwargs["ckpt_path"] = str(folder / "checkpoints" / LAST)
        elif kwargs.get("ckpt_path"):
            kwargs["ckpt_path"] = str(find_checkpoint(Path(kwargs["ckpt_path"])))
        self._ckpt_path = kwargs.get("ckpt_path")
        return kwargs

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the trainer's method; an error while a checkpoint is restored names the checkpoint.

        A checkpoint may lack whatever a tensor or a value can be missing from: the errors are of any kind.

        Raises:
            CheckpointError: If the checkpoint cannot be restored.
        """
        try:
            with refusals_of_lightning():
                super()._run_subcommand(subcommand)
        except (KeyError, IndexError, TypeError, AttributeError, AssertionError, RuntimeError, ValueError) as error:
            restoring = self.model.restoring
            foreign = (
                restoring == "" or isinstance(error, DamagedFile) or other_process_lost(error) or reason_full(error)
            )
            if foreign or (restoring == "used" and isinstance(error, RuntimeError | ValueError)):
                raise
            raise unreadable(error, str(self._ckpt_path)) from error
        finally:
            if self.scratch is not None:
                self.scratch.cleanup()
