"""From batches to columns: the prediction, its probabilities, and how sure the filter's covariance makes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from filtune.datamodules import Task
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.predictive import difference_variance, posterior_predictive, tempered_predictive
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .restore import Restored
from .uncertainty import OutputCovariance

Columns = dict[str, list[Any]]

SAMPLES_ON_CPU = 4
"""Most samples at once with a covariance: a batch of 32 texts took four times as long a text as one of 4."""


@dataclass(frozen=True)
class Prediction:
    """Outputs of some samples, and their covariance where there is one.

    Attributes:
        outputs: (B, m).
        covariance: (B, m, m).
        evidence: What the stream said of how wide that is to be taken, (K,); None where it said nothing.
    """

    outputs: Tensor
    covariance: Tensor | None = None
    evidence: Tensor | None = None

    @property
    def moderated(self) -> Tensor | None:
        """Probabilities averaged over the outputs' uncertainty, (B, m), where there is one."""
        if self.covariance is None:
            return None
        if self.evidence is None:
            return posterior_predictive(self.outputs, self.covariance)
        return tempered_predictive(self.outputs, self.covariance, self.evidence)

    @classmethod
    def join(cls, parts: Iterable[Prediction]) -> Prediction:
        """All samples of several batches."""
        parts = list(parts)
        outputs, covariances = zip(*((part.outputs, part.covariance) for part in parts), strict=True)
        covariance = None if covariances[0] is None else torch.cat(covariances)
        return cls(torch.cat(outputs), covariance, parts[0].evidence)


class Predictor:
    """A run's model, with its filter's covariance if it has one.

    Args:
        run: The run.
        uncertainty: Whether to use the covariance, which costs about what a training step does.
    """

    def __init__(self, run: Restored, uncertainty: bool = True) -> None:
        self.task = run.task
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.backbone = run.backbone.to(self.device)
        self.has_covariance = issubclass(run.optimizer_class, KalmanOptimizer)
        self.covariance: OutputCovariance | None = None
        self.evidence: Tensor | None = None
        if self.has_covariance and uncertainty:
            optimizer = run.optimizer()
            assert isinstance(optimizer, KalmanOptimizer)
            self.covariance = OutputCovariance(optimizer, self.backbone)
            evidence = optimizer.tempering_log_weights()
            self.evidence = None if evidence is None else evidence.float().cpu()

    def batch_size(self, asked: int) -> int:
        """The batch size, bounded where the Jacobian would not fit or padding would cost more than is gained."""
        if self.covariance is None:
            return asked
        most = self.covariance.batch_size(self.task.outputs)
        return min(asked, most, SAMPLES_ON_CPU) if self.device.type == "cpu" else min(asked, most)

    def __call__(self, batch: dict[str, Any]) -> Prediction:
        """Predict a batch."""
        # of the kinds of attention, this one has a backward pass that takes many rows at once
        kernel = sdpa_kernel(SDPBackend.MATH) if self.covariance else nullcontext()
        with kernel, torch.set_grad_enabled(self.covariance is not None):
            outputs = self.backbone(self.backbone.preprocess(batch))
            covariance = self.covariance(outputs) if self.covariance else None
        covariance = None if covariance is None else covariance.float().cpu()
        return Prediction(outputs.detach().float().cpu(), covariance, self.evidence)


def columns(prediction: Prediction, task: Task) -> Columns:
    """The columns of a table of predictions, by name; see :func:`tempered_predictive` for ``probability_bayes``."""
    z, C = prediction.outputs, prediction.covariance
    if task.kind == "regression":
        values = z.squeeze(1) if z.shape[1] == 1 else z
        deviation = {} if C is None else {"std": C.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().squeeze(1).tolist()}
        return {"prediction": values.tolist(), **deviation}
    found: Columns = {"prediction": [task.classes[label] for label in z.argmax(1).tolist()]}
    found |= _by_class("probability", z.softmax(1), task)
    if C is None:
        return found
    if len(task.classes) == 2:
        found["logit_std"] = difference_variance(C)[:, 0, 1].sqrt().tolist()
    else:
        found |= _by_class("logit_std", C.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt(), task)
    moderated = prediction.moderated
    return found if moderated is None else {**found, **_by_class("probability_bayes", moderated, task)}


def say(prediction: Prediction, task: Task) -> str:
    """One line about many predictions."""
    z = prediction.outputs
    if task.kind == "regression":
        return f"{len(z)} rows; mean {z.mean():.4g}, from {z.min():.4g} to {z.max():.4g}"
    counts = Counter(task.classes[label] for label in z.argmax(1).tolist())
    confidence = z.softmax(1).amax(1).mean()
    shares = ", ".join(f"{name} {count}" for name, count in counts.most_common(8))
    more = f" and {len(counts) - 8} more" if len(counts) > 8 else ""
    return f"{len(z)} rows: {shares}{more}; mean confidence {confidence:.3f}"


def _by_class(name: str, values: Tensor, task: Task) -> Columns:
    return {f"{name}_{label}": values[:, i].tolist() for i, label in enumerate(task.classes)}
