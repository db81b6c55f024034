"""Norm of the gradient on fixed training samples, and the validation metrics, along a run (GRNG, Figure 1).

It is measured for every method alike, also for filters, which take no gradient of the loss.
"""

from __future__ import annotations

import statistics
from typing import Any

import lightning.pytorch as pl
import torch
from filtune.datamodules.samples import collate
from filtune.lightning_modules.metrics import MetricSet

from ..runs import MEASURED


class GradientNorm(pl.Callback):
    """Measurement of the mean loss's gradient before the first step, at even distances, and after the last step.

    The scalars are ``gradient_norm``, ``average_gradient_norm`` (the mean over the evaluations so far, as the paper's
    figure has it over iterations) and the task's metrics on the validation samples.

    Args:
        points: Evaluations of a run, beside that before the first step.
        samples: Training samples whose gradient is measured: the first of the stream.
        chunk: Samples of a batch of an evaluation; it changes the time alone.

    Raises:
        ValueError: If an argument is below 1.
    """

    def __init__(self, points: int = 6, samples: int = 64, chunk: int = 32) -> None:
        for name, value in (("points", points), ("samples", samples), ("chunk", chunk)):
            if value < 1:
                raise ValueError(f"trainer.callbacks: GradientNorm: {name} must be at least 1, got {value}")
        self.points, self.samples, self.chunk = points, samples, chunk
        self.norms: dict[int, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the norms by step."""
        return {"norms": dict(self.norms)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the norms."""
        self.norms = dict(state_dict["norms"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure before the first step."""
        if trainer.global_step == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Measure at even distances and after the last step."""
        last = int(trainer.estimated_stepping_batches)
        if trainer.global_step % max(1, last // self.points) == 0 or trainer.global_step == last:
            self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, module: Any) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.norms[trainer.global_step] = gradient_norm(module, self._batches(data.part, self.samples))
        found = {
            "gradient_norm": self.norms[trainer.global_step],
            "average_gradient_norm": statistics.fmean(self.norms.values()),
        }
        if data.validation is not None:
            found |= self._scores(module, data.validation)
        for logger in trainer.loggers:
            logger.log_metrics({f"{MEASURED}{name}": value for name, value in found.items()}, trainer.global_step)

    def _batches(self, part: Any, most: int | None = None) -> list[dict[str, Any]]:
        """Return the first samples, of like length together, so that little of a batch is padding."""
        samples = [part.samples[int(row)] for row in part.rows[:most]]
        samples.sort(key=lambda sample: len(str(sample.get("text", ""))))
        return [collate(samples[start : start + self.chunk]) for start in range(0, len(samples), self.chunk)]

    @torch.no_grad()
    def _scores(self, module: Any, part: Any) -> dict[str, float]:
        metrics = MetricSet(module.task, module.task.metrics).to(module.device)
        for batch in self._batches(part):
            metrics.update(module.observe(module.backbone.preprocess(batch), batch["label"].to(module.device)))
        return {name: float(value) for name, value in metrics.compute("").items()}


def gradient_norm(module: Any, batches: list[dict[str, Any]]) -> float:
    """Return the norm of the gradient of the mean negative log-likelihood; the parameters' own is not touched.

    Args:
        module: The Lightning module.
        batches: Raw batches; how samples are divided into them makes no difference but rounding.
    """
    params = [param for param in module.backbone.parameters() if param.requires_grad]
    total, count = [torch.zeros_like(param) for param in params], 0
    for batch in batches:
        label = batch["label"].to(module.device)
        loss = module.observe(module.backbone.preprocess(batch), label).nll()
        for own, grad in zip(total, torch.autograd.grad(loss, params), strict=True):
            own += len(label) * grad
        count += len(label)
    return float(torch.nn.utils.get_total_norm(total)) / count
