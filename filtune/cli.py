"""The entry: ``filtune fit|validate|reproduce|...`` on the command line, ``python cli.py ...`` in a clone."""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the loader forks workers, the tokenizer would complain
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a process that stops with another would log its stack

import transformers
from jsonargparse import ArgumentError
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import filtune.optimizers as optimizers
from filtune.datamodules import StreamDataModule
from filtune.experiments import reproduce, sweep
from filtune.experiments.composition import find_config
from filtune.experiments.runs import DIVERGED
from filtune.exports import export, predict
from filtune.lightning_modules import OnlineModule, check_precision
from filtune.lightning_modules.callbacks import (
    OnlineProgressBar,
    RunSummary,
    StreamCheckpoint,
    TensorBoardPage,
)
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO
from filtune.lightning_modules.launch import is_first, is_first_to_tell, leave, other_process_lost
from filtune.lightning_modules.runs import LAST, RunConfig, RunName, last_folder, new_folder
from filtune.optimizers import OnlineOptimizer
from filtune.reports import compare, report

COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "compare": compare.main,
    "contest": report.contest,
    "export": export.main,
    "predict": predict.main,
    "report": report.main,
    "reproduce": reproduce.main,
    "sweep": sweep.main,
}
"""What there is beside the trainer's own commands; each takes its part of the command line."""

DESCRIPTION = (
    "Online fine-tuning of pre-trained models with Kalman filters, natural gradients and baselines. Further commands, "
    f"each with its --help: {', '.join(name for name in COMMANDS if name != 'contest')}."
)

EXPLAINED = (ValueError, OSError, ArgumentError, FloatingPointError, ImportError, MisconfigurationException)
"""Errors that are the user's to mend, told in one line; FILTUNE_DEBUG=1 shows where they come from."""

for module in pkgutil.walk_packages(optimizers.__path__, f"{optimizers.__name__}."):
    # every optimizer's class becomes known by its name, so that adding one takes no change here
    importlib.import_module(module.name)


class FiltuneCLI(LightningCLI):
    """``fit`` and ``validate``, configured by YAML files that compose in any order.

    Args:
        args: Command line without the program's name.
    """

    def __init__(self, args: list[str]) -> None:
        self.folder: Path | None = None
        super().__init__(
            OnlineModule,
            StreamDataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"exit_on_error": False, "description": DESCRIPTION},
            args=resolve_configs(args),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's methods that are commands."""
        skipped = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule", "weights_only"}
        return {"fit": skipped, "validate": skipped}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--optimizer`` and ``--run``."""
        parser.add_optimizer_args((OnlineOptimizer,), "optimizer", link_to="model.optimizer_init")
        parser.add_class_arguments(RunConfig, "run")

    def before_instantiate_classes(self) -> None:
        """See that the parts of a run are there, before anything is read or built.

        Raises:
            ValueError: Naming what is missing or cannot work.
        """
        for key, example in (("optimizer", "configs/optimizer/loko.yaml"), ("data", "configs/task/digits.yaml")):
            if not self._get(self.config, key):
                raise ValueError(f"--{key}: none is given; name one, or a configuration such as --config {example}")
        trainer = self._get(self.config, "trainer")
        check_precision(trainer.get("precision"))
        if re.search("spawn|fork|notebook", str(trainer.get("strategy"))):
            raise ValueError(f"trainer.strategy: {trainer['strategy']} is not for the command line; take ddp")
        for rival in self._get(self.config, "run").against:
            find_config(rival)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with what every run has: one folder, atomic checkpoints, a bar, a summary."""
        given = self._get(self.config_init, "trainer")
        self._dump_config()
        self.model.run_config = {k: v for k, v in self.config_dump.items() if k != "ckpt_path"}
        kwargs |= {
            "plugins": [*(given.get("plugins") or []), AtomicCheckpointIO()],
            "callbacks": list(given.get("callbacks") or []),
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
            "enable_checkpointing": self.subcommand == "fit",
            "logger": False,
            "use_distributed_sampler": False,
        }
        if given.get("enable_progress_bar") is not False:
            kwargs["callbacks"].append(OnlineProgressBar(refresh_rate=20))
        if self.subcommand == "fit":
            name = self._name()
            self.folder = self._open_folder(name)
            kwargs["logger"] = TensorBoardLogger(
                self.folder.parents[1], "", f"{name.stem}/{self.folder.name}", default_hp_metric=False
            )
            kwargs["callbacks"] += [
                TensorBoardPage(self.model.run_config),
                RunSummary(self.folder, name.optimizer, self.model.run_config),
                StreamCheckpoint(self.folder / "checkpoints", self._get(self.config_init, "run").checkpoint_every),
            ]
        else:
            self.save_config_callback = None
        return super().instantiate_trainer(**kwargs)

    def _parse_ckpt_path(self) -> None:
        """Take nothing from the checkpoint: the command line says what to run, and a contradiction is refused."""

    def _name(self) -> RunName:
        return RunName(
            task=self.datamodule.label,
            backbone=self.model.backbone_config.name,
            optimizer=self._get(self.config, "optimizer")["class_path"].rpartition(".")[2],
            seed=self._get(self.config, "seed_everything"),
        )

    def _open_folder(self, name: RunName) -> Path:
        root = Path(self._get(self.config_init, "run").root)
        if self._get(self.config, "ckpt_path") == "last":
            return last_folder(root, name)
        return new_folder(root, name) if is_first() else root / name.experiment / name.stem / "of_the_first_process"

    def after_fit(self) -> None:
        """Let every process know the folder."""
        self.folder = Path(self.trainer.strategy.broadcast(str(self.folder)))

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        if kwargs.get("ckpt_path") == "last":
            folder = self.folder or last_folder(Path(self._get(self.config_init, "run").root), self._name())
            kwargs["ckpt_path"] = str(folder / "checkpoints" / LAST)
        return kwargs


def fit(args: list[str]) -> None:
    """Fit, then fit what the run is to be compared with on the same stream, and show how they did."""
    cli = FiltuneCLI(args)
    assert cli.folder is not None
    folders = [cli.folder]
    for other in cli._get(cli.config_init, "run").against:
        same = ["--config", str(cli.folder / "config.yaml"), "--config", other]
        rival = FiltuneCLI(["fit", *same, "--run.against=[]", "--ckpt_path=null"])
        assert rival.folder is not None
        folders.append(rival.folder)
    if is_first():
        compare.print_runs(folders)


def resolve_configs(args: list[str]) -> list[str]:
    """Find the configurations and put them before the other options, so that the line has the last word.

    ``--config`` also names what ships with filtune, from any folder: ``quickstart``, ``task/sst2`` and
    ``configs/task/sst2.yaml`` are all found.

    Args:
        args: Command line: the command, then its options.

    Raises:
        ValueError: If there is no such file; the message lists what ships.
    """
    command, rest = args[:1], iter(args[1:])
    configs: list[str] = []
    options: list[str] = []
    for arg in rest:
        name, equals, value = arg.partition("=")
        if name in ("--config", "-c"):
            configs += ["--config", str(find_config(value if equals else next(rest, "")))]
        else:
            options.append(arg)
    return command + configs + options


def quiet() -> None:
    """Keep down the notices of libraries about what is meant to be so."""
    transformers.logging.set_verbosity_error()  # a fresh head is meant, and not a warning
    transformers.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.distributed").setLevel(logging.WARNING)
    if not is_first():
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # it is meant to be
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # between two libraries
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # the metrics have been synchronised
    warnings.filterwarnings("ignore", message=".*will save all targets and predictions in the buffer.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")


def main(args: list[str] | None = None) -> None:
    """Run a command; mistakes are told in one line."""
    args = sys.argv[1:] if args is None else args
    quiet()
    try:
        if args and args[0] in COMMANDS:
            sys.exit(COMMANDS[args[0]](args[1:]))
        elif args[:1] == ["fit"]:
            fit(args)
        else:
            FiltuneCLI(args)
    except KeyboardInterrupt:
        print("filtune: stopped", file=sys.stderr)
        sys.exit(130)
    except (*EXPLAINED, RuntimeError) as error:
        first, lost = is_first_to_tell(), other_process_lost(error)
        if os.environ.get("FILTUNE_DEBUG") or (first and not isinstance(error, EXPLAINED) and not lost):
            raise
        if first:
            print(f"filtune: error: {lost or ' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(DIVERGED if isinstance(error, FloatingPointError) else 2)
    finally:
        leave()


if __name__ == "__main__":
    main()
