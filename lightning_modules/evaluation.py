"""Scores and predictions of the model: what ``Trainer.validate``, ``test`` and ``predict`` run."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning.pytorch as pl
from filtune.datamodules import Task
from filtune.optimizers import Likelihood
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from .backbones import Backbone
from .forgetting import Forgetting
from .metrics import MetricSet, Prequential
from .optimization import WeightAverage


def task_of(trainer: pl.Trainer) -> Task:
    """Return the task that the trainer's data module describes, for which the model is built.

    Raises:
        ValueError: If there is no data module, or it describes none.
    """
    task = getattr(getattr(trainer, "datamodule", None), "task", None)
    if task is None:
        raise ValueError(
            "datamodule: the model is built for the task of a data module of filtune, and there is none; call the "
            "trainer with datamodule=..., or set module.task before, such as that of a data module"
        )
    return task


def check_loaders(trainer: pl.Trainer) -> None:
    """Refuse to test on, or predict, a split that a data module does not have.

    Raises:
        ValueError: Naming the loader that can be given instead.
    """
    stage = getattr(trainer.state.fn, "value", "")
    if stage not in ("test", "predict"):
        return
    # Lightning has no public way to tell a data module of this call from one of an earlier call
    data = getattr(trainer, f"{stage}_loop")._data_source.instance
    if isinstance(data, pl.LightningDataModule) and not is_overridden(f"{stage}_dataloader", data):
        raise ValueError(
            f"datamodule: {type(data).__name__} has no {stage} split; call Trainer.{stage}(module, dataloaders=...), "
            "for example with datamodule.val_dataloader()"
        )


class Evaluation(pl.LightningModule):
    """Scores observations with the task's metrics, under ``val/`` or ``test/``, and predicts."""

    backbone: Backbone
    validation: MetricSet
    validation_loss: MeanMetric
    forgetting: Forgetting
    online: Prequential
    average: WeightAverage
    last_validation: dict[str, float]
    confusion: MulticlassConfusionMatrix | None
    last_confusion: Tensor | None = None

    @abstractmethod
    def likelihood_given(self, inputs: Any) -> Likelihood:
        """Return the likelihood of the outputs for preprocessed inputs."""

    @abstractmethod
    def publish(self) -> dict[str, Tensor]:
        """Hand the online metrics to the callbacks."""

    def on_validation_epoch_start(self) -> None:
        """Discard the last validation."""
        self.validation.reset()
        self.validation_loss.reset()
        self.forgetting.reset()
        if self.confusion is not None:
            self.confusion.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Score a batch."""
        with self.average.applied():
            observation = self.likelihood_given(self.backbone.preprocess(batch)).observe(batch["label"])
        self.validation.update(observation)
        self.validation_loss.update(observation.nll(), weight=len(observation.target))
        self.forgetting.update(observation, batch.get("regime"))
        if self.confusion is not None:
            self.confusion.update(observation.likelihood.answer(), observation.target)

    def on_validation_epoch_end(self) -> None:
        """Report the task's own metrics, in 0..100, and the loss; during training the online metrics as well."""
        if self.trainer.sanity_checking:
            return
        training = self.trainer.state.fn == "fit"
        scores = self._scores("val/", int(self.online.samples) if training else None)
        self.last_validation = {name: float(value) for name, value in scores.items()}
        if self.confusion is not None and self.confusion.update_called:
            self.last_confusion = self.confusion.compute()
        self._report(scores)
        if training:
            self.publish()

    def on_test_epoch_start(self) -> None:
        """Discard the last scores."""
        self.on_validation_epoch_start()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Score a batch."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Report the same metrics as the validation, as ``test/``."""
        self._report(self._scores("test/"))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Predict a batch; its labels are not looked at.

        Returns:
            ``answer``, classes or values, (B,) or (B, m), and ``mean``, probabilities or values, (B, m).
        """
        with self.average.applied():
            likelihood = self.likelihood_given(self.backbone.preprocess(batch))
        return {"answer": likelihood.answer(), "mean": likelihood.mean()}

    def _report(self, scores: dict[str, Tensor]) -> None:
        """Hand scores to the callbacks and loggers, in training as of the steps taken: Lightning counts one less."""
        if self.trainer.barebones:  # which logs nothing, and warns of it
            return
        training = self.trainer.state.fn == "fit"
        self.log_dict(scores, logger=False if training else None)
        for logger in self.loggers if training else ():
            logger.log_metrics({name: float(value) for name, value in scores.items()}, step=self.global_step)

    def _scores(self, prefix: str, samples: int | None = None) -> dict[str, Tensor]:
        """Return the scores by prefixed name; during training, ``samples`` is the number of training samples so far."""
        loss = {f"{prefix}loss": self.validation_loss.compute()}
        return {**self.validation.compute(prefix), **loss, **self.forgetting.compute(prefix, samples)}
