"""The training step: batch -> likelihood -> optimizer.step -> prequential metrics."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from filtune.datamodules import Task
from filtune.optimizers import OnlineOptimizer
from filtune.optimizers.base import SETTINGS
from filtune.optimizers.likelihoods.tasks import StreamState
from filtune.optimizers.step_graphs import StepGraphs
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torchmetrics import MeanMetric

from .backbones import BackboneConfig
from .checkpoints import (
    FORMAT,
    check_inputs,
    check_task,
    compare_names,
    config_differences,
    data_differences,
    frozen_fingerprint,
    refuse_changes,
    translate_tensors,
)
from .evaluation import Evaluation, check_loaders, task_of
from .forgetting import Forgetting
from .graphs import check_recordable, check_run
from .launch import refused_together
from .legacy import translate_checkpoint
from .metrics import MetricSet, build_confusion
from .monitoring import StepTimer, Watch
from .optimization import Schedule, group_parameters
from .runs import CheckpointError
from .step import OnlineStep
from .trainer_checks import await_metrics, check_length, check_metrics, check_trainer, watches_steps


class OnlineModule(OnlineStep, Evaluation):
    """Lightning module that fine-tunes a backbone on a stream, one batch at a time, with any optimizer.

    Args:
        backbone: The backbone, its adapter and its head.
        optimizer_init: Function that builds the optimizer from parameter groups; filled in from ``--optimizer``.
        schedule: Warm-up and decay of the learning rate, for optimizers that have one.
        param_groups: Options of some parameters, by a regular expression on their names: ``{lora_B: {p0: 2.0}}``.
        weight_averaging: Validate, export and predict with the mean of the trained parameters over the last quarter of
            the steps, at most this many of them; training itself does not change. 0 takes the last parameters.
        on_divergence: Reaction to an optimizer that diverges: ``stop`` with an error, ``rewind`` to the last checkpoint
            and go on with the next samples, or ``warn`` and go on.
        checksum_every: Steps between two checks that several processes hold the same parameters.
        cuda_graphs: Record whole steps as CUDA graphs and replay them, which saves the time of launching their
            operations. It needs a CUDA device, one process and a constant learning rate.

    Attributes:
        restoring: ``read`` while a checkpoint is restored, ``used`` in the first step after it: errors are then its.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        optimizer_init: Callable[[Iterable], OnlineOptimizer],
        schedule: Schedule | None = None,
        param_groups: dict[str, dict[str, Any]] | None = None,
        weight_averaging: int = 0,
        on_divergence: Literal["stop", "rewind", "warn"] = "stop",
        checksum_every: int = 100,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        if checksum_every < 1:
            raise ValueError(f"model.checksum_every: must be at least 1, got {checksum_every}")
        if weight_averaging < 0:
            raise ValueError(f"model.weight_averaging: must be a number of steps, or 0, got {weight_averaging}")
        self.automatic_optimization = False
        self.strict_loading = False
        self.backbone_config, self.optimizer_init = backbone, optimizer_init
        self.schedule, self.param_groups = schedule or Schedule(), param_groups or {}
        self.watch, self.checksum_every = Watch(on_divergence), checksum_every
        self.weight_averaging, self.cuda_graphs = weight_averaging, cuda_graphs
        self.run_config: dict[str, Any] = {}
        self.timer = StepTimer(self.device)
        self.clock: Callable[[], float] = lambda: 0.0
        self.seconds_before = 0.0
        self.last_validation: dict[str, float] = {}
        self.target_state: StreamState | None = None
        self.restoring: Literal["", "read", "used"] = ""
        self._built, self._recorded = False, -1
        self._advised = False

    def setup(self, stage: str) -> None:
        """Build the backbone for the data module's task.

        Raises:
            ValueError: If the run asks for something that cannot work.
        """
        if self._built:
            return
        task: Task = getattr(self, "task", None) or task_of(self.trainer)
        self.build(self.backbone_config, task, self.weight_averaging)
        self.validation = MetricSet(self.task, self.task.metrics)
        self.validation.metrics.persistent(False)
        self.validation_loss = MeanMetric()
        self.confusion = build_confusion(self.task)
        self.forgetting = Forgetting(self.task.segments)
        self.fingerprint, self.input_settings = frozen_fingerprint(self.backbone), self.backbone.input_settings()
        data = getattr(self.trainer, "datamodule", None)
        fingerprint = getattr(data, "fingerprint", None) if stage == "fit" else None
        self.data_fingerprint: dict[str, Any] | None = fingerprint() if fingerprint is not None else None
        self._built = True

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return no callbacks; check the trainer, for this hook is the first to be called.

        Raises:
            ValueError: If the trainer was given what would be ignored.
        """
        check_trainer(self.trainer, training=self.trainer.state.fn == "fit")
        check_loaders(self.trainer)
        if self.cuda_graphs and self.trainer.state.fn == "fit":
            check_run(self.trainer, self.schedule)
        return []

    @refused_together()
    def configure_optimizers(self) -> Any:
        """Return the optimizer over the trainable parameters, and its schedule if it has one.

        Raises:
            ValueError: If it is none of filtune's.
        """
        groups = group_parameters(self.backbone, self.param_groups)
        try:
            optimizer = self.optimizer_init(groups)
        except TypeError as error:
            if not self.param_groups:
                raise
            raise ValueError(f"model.param_groups: {' '.join(str(error).split())}; correct the options") from error
        unknown = [name for options in self.param_groups.values() for name in options if name not in optimizer.defaults]
        if unknown and isinstance(optimizer, OnlineOptimizer):
            raise ValueError(
                f"model.param_groups: {type(optimizer).__name__} has no option {unknown[0]!r} for a group; it has "
                f"{', '.join(sorted(optimizer.defaults))}"
            )
        if not isinstance(optimizer, OnlineOptimizer):
            kind = f"{type(optimizer).__module__}.{type(optimizer).__name__}"
            raise ValueError(f"optimizer_init: {kind} is not an optimizer of filtune, which a closure drives")
        if self.cuda_graphs:
            check_recordable(optimizer)
        optimizer.attach(self.backbone)
        if self.schedule.constant:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule.build(optimizer, steps)}

    def on_train_start(self) -> None:
        """Start the clock, disable dropout and running batch statistics, and check that all processes start alike."""
        self.restoring = self.restoring and "used"
        self.timer = StepTimer(self.device)
        self.backbone.eval()
        self.watch.keep(self.optimizers(use_pl_optimizer=False), self.global_step, self.target_state)
        self.check_ranks()
        check_metrics(self.trainer, self.metric_names, False, "lr" in self.optimizers(use_pl_optimizer=False).defaults)
        await_metrics(self.trainer, self.forgetting.names("val/"))
        self._is_watched = watches_steps(self.trainer)
        self._is_new = True
        check_length(self.trainer)
        self.graphs = StepGraphs(self.optimizers(use_pl_optimizer=False)) if self.cuda_graphs else None

    def teardown(self, stage: str) -> None:
        """Remove recorded steps, before the trainer takes the model off the device."""
        if self.graphs is not None:
            self.graphs.remove()
        self.graphs = None

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Predict, learn, and record the predictions, of the samples of all processes.

        Returns:
            ``loss``, the mean negative log-likelihood of the predictions, (), for callbacks that look at it.
        """
        optimizer, seed = self.optimizers(use_pl_optimizer=False), self.run_config.get("seed_everything")
        prediction = self.learn_batch(batch, optimizer, seed, self.global_step, self.optimizers().step)
        if not self.schedule.constant:
            self.lr_schedulers().step()
        self.restoring = ""
        if self.global_step % self.checksum_every == 0:
            self.check_ranks()
        if self._is_new and self._is_watched:
            check_metrics(self.trainer, lambda: {*self.metric_names(), *self.publish()}, True, True)
        self._is_new = False
        every = self.trainer.log_every_n_steps
        if every and self.global_step % every == 0:
            self.record()
        elif self._is_watched:
            self.publish()
        return {"loss": prediction.nll().detach()}

    def check_ranks(self) -> None:
        """Check that all processes hold the same parameters.

        Raises:
            ValueError: If they do not.
        """
        try:
            self.optimizers(use_pl_optimizer=False).check_ranks()
        except ValueError as error:
            raise ValueError(f"step {self.global_step}: {error}") from None

    def record(self) -> None:
        """Write the online metrics and the optimizer's figures to every logger; check the optimizer for divergence.

        Raises:
            FloatingPointError: If it diverged.
        """
        self._recorded, optimizer = self.global_step, self.optimizers(use_pl_optimizer=False)
        figures = self.publish()
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in figures.items()}, step=self.global_step)
        self.restore_if_diverged(optimizer)
        advice = optimizer.diagnose()
        if advice and not self._advised:
            rank_zero_warn(f"step {self.global_step}: {advice}")
        self._advised = advice is not None  # warned again where it was over in between

    def publish(self) -> dict[str, Tensor]:
        """Hand the online metrics and the optimizer's figures to the callbacks, and return them by name."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        rates = {"lr": torch.as_tensor(optimizer.param_groups[0]["lr"])} if "lr" in optimizer.param_groups[0] else {}
        figures = {**self.online.compute(), **{f"stats/{k}": v for k, v in optimizer.stats.items()}, **rates}
        shown = (f"online/{self.online.score}", "online/loss")
        self.trainer.callback_metrics.update(figures)
        self.trainer.progress_bar_metrics.update({name: float(figures[name]) for name in shown})
        return figures

    def on_train_epoch_end(self) -> None:
        """Record where the epoch ended, unless that is a regular point, before any callback looks at it."""
        if self._recorded != self.global_step:
            self.record()

    def metric_names(self) -> set[str]:
        """Return the names of the online and validation metrics, before the first step."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no sample has been seen
            online = self.online.compute()
        predictive = {name.replace("online/", "online/predictive_") for name in online if name != "online/loss"}
        validation = {f"val/{name}" for name in (*self.task.metrics, "loss")} | self.forgetting.names("val/")
        return {*online, *predictive, *validation, "lr"}

    def before_checkpoint(self) -> None:
        """Check the optimizer for divergence, and keep its state as a good one.

        Raises:
            FloatingPointError: If it diverged.
        """
        optimizer = self.optimizers(use_pl_optimizer=False)
        self.restore_if_diverged(optimizer)
        self.watch.keep(optimizer, self.global_step, self.target_state)

    def restore_if_diverged(self, optimizer: OnlineOptimizer) -> None:
        """Apply the policy for divergence; the mean of the weights restarts where the parameters were restored.

        Raises:
            FloatingPointError: If it diverged, and the policy is to stop.
        """
        if self.watch.check(optimizer, self.global_step, self.target_state):
            self.average.restart()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained parameters, the online metrics and the state of the targets; not the frozen backbone.

        Raises:
            FloatingPointError: If the optimizer diverged, and the policy is to stop.
        """
        if not self._built:  # a callback saves because something failed, and that is what is reported
            raise sys.exc_info()[1] or CheckpointError("there is nothing to save before training has started")
        kept = self.saved_names(self.state_dict())
        if self.trainer.state.fn == "fit":
            optimizer = self.optimizers(use_pl_optimizer=False)
            if self.restore_if_diverged(optimizer):  # a callback of the user's saves what has just been restored
                checkpoint["state_dict"] = self.state_dict()
                checkpoint["optimizer_states"] = [optimizer.state_dict()]
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint["filtune"] = {
            "format": FORMAT,
            "config": self.run_config,
            "ranks": self.trainer.world_size,
            "fingerprint": self.fingerprint,
            "inputs": self.input_settings,
            "validation": self.last_validation,
            "confusion": self.last_confusion,
            "predictions": self.online.log and self.online.log.state(),
            "forgetting": self.forgetting.state(),
            "rewinds": self.watch.rewinds,
            "weight_averaging": self.average.state_dict(),
            "seconds": self.seconds_before + self.clock(),
            "backbone": self.backbone_config.name,
            "task": asdict(self.task),
            "data": self.data_fingerprint,
        }

    @refused_together(CheckpointError)
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that this run does not continue.

        Raises:
            CheckpointError: Naming what differs.
        """
        if not self._built:
            raise CheckpointError(
                "load_from_checkpoint: the model is built for the task of a data module; call "
                "Trainer.validate(module, datamodule=..., ckpt_path=...), which loads it"
            )
        self.restoring = "read"
        if "filtune" not in checkpoint:
            raise CheckpointError("ckpt_path: the file is not a checkpoint of filtune")
        saved = translate_checkpoint(checkpoint["filtune"])
        check_task(saved.get("task"), self.task.kind, self.task.classes)
        if self.trainer.state.fn == "fit":
            self._refuse_changes(saved, checkpoint.get("optimizer_states") or [])
        translate_tensors(checkpoint["state_dict"])
        scaled = any(name.startswith("target_state.") for name in checkpoint["state_dict"])
        if scaled != (
            self.target_state is not None
        ):  # the units are the checkpoint's, also where the present data has others
            state = self.likelihood.build_state(self.task.outputs) if scaled else None
            self.target_state = None if state is None else state.to(self.device)
        own = self.state_dict()
        expected = {name: own[name] for name in self.saved_names(own)}
        compare_names(checkpoint["state_dict"], expected, earlier="format" not in saved)
        if saved["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"ckpt_path: the frozen weights of {self.backbone_config.name!r} are not those the checkpoint was "
                f"trained on ({saved['backbone']!r}); load the same backbone, with the same seed where it is random"
            )
        check_inputs(saved.get("inputs") or {}, self.input_settings, self.backbone_config.name)
        self.last_validation, self.last_confusion = dict(saved["validation"]), saved.get("confusion")
        self.online.load_log(saved.get("predictions"), int(checkpoint["state_dict"]["online.samples"]))
        self.forgetting.load(saved.get("forgetting"))
        self.watch.rewinds = saved["rewinds"]
        if saved.get("weight_averaging"):
            self.average.load_state_dict(saved["weight_averaging"])
        self.seconds_before = saved.get("seconds", 0.0)

    def _refuse_changes(self, saved: dict[str, Any], states: list[dict[str, Any]]) -> None:
        """Refuse to continue a run whose configuration or data have changed, unless ``run.resume_changed`` allows it.

        Raises:
            CheckpointError: Naming what differs.
        """
        ranks = saved.get("ranks", 1), self.trainer.world_size
        settings = config_differences(saved["config"], self.run_config, ranks, type(self))
        data = data_differences(saved.get("data"), self.data_fingerprint)
        allowed = bool((self.run_config.get("run") or {}).get("resume_changed"))
        refuse_changes(settings, data, allowed)
        if allowed and settings:
            for state in states:
                state.pop(SETTINGS, None)  # an optimizer's own check; what does not fit is refused all the same
        if getattr(self.trainer, "datamodule", None) is not None:
            self.trainer.datamodule.resume_changed = allowed
        if saved.get("data") is None and self.data_fingerprint is not None:
            rank_zero_info("the checkpoint has no fingerprint of the data, which is taken to be the same")
