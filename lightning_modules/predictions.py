"""The prequential predictions of a run by class, and the samples that were predicted worst, in ``predictions.json``."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any, Protocol

import torch
from filtune.optimizers import Observation
from torch import Tensor

from .atomic import atomic_write
from .integrity import sealed
from .runs import PREDICTIONS

WORST = 12
"""Samples that are kept, those of the largest loss."""

PENDING = 64
"""Steps after which the predictions are counted, all at once: between these a step keeps a reference."""

TEXT, SIDE = 400, 64
"""Characters of a text, and pixels of the longer side of an image, in the file."""


class Stream(Protocol):
    """A stream whose samples are known by their position."""

    def sample_at(self, position: int) -> dict[str, Any] | None:
        """Return the sample that was handed out at a position; None where that is not known."""


class PredictionLog:
    """Counts predictions by true and predicted class, and keeps the samples with the largest loss.

    A prediction that is not finite is left out.

    Args:
        classes: Number of classes.
        counted: Whether they are few enough for a matrix of counts.

    Attributes:
        samples: Samples seen, of which the position of the next one follows.
    """

    def __init__(self, classes: int, counted: bool) -> None:
        self.samples = 0
        self._confusion = torch.zeros(classes, classes, dtype=torch.int64) if counted else None
        self._worst = torch.zeros(0, 5, dtype=torch.float64)  # loss, position, label, predicted class, its probability
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    def update(self, observation: Observation) -> None:
        """Take in a batch that was predicted before the update."""
        self._pending.append((self.samples, observation.outputs.detach(), observation.target))
        self.samples += len(observation.target)
        if len(self._pending) >= PENDING:
            self._count()

    @torch.no_grad()
    def _count(self) -> None:
        """Count the pending batches."""
        if not self._pending:
            return
        outputs = torch.cat([outputs for _, outputs, _ in self._pending]).double().cpu()
        label = torch.cat([target for _, _, target in self._pending]).cpu()
        position = torch.cat([torch.arange(first, first + len(target)) for first, _, target in self._pending])
        self._pending = []
        finite = outputs.isfinite().all(1)
        outputs, label, position = outputs[finite], label[finite], position[finite]
        logarithms = outputs.log_softmax(-1)
        loss = -logarithms.gather(1, label.unsqueeze(1)).squeeze(1)
        confidence, predicted = logarithms.exp().max(1)
        if self._confusion is not None:
            classes = len(self._confusion)
            self._confusion += torch.bincount(label * classes + predicted, minlength=classes**2).view(classes, classes)
        found = torch.cat([self._worst, torch.stack([loss, position, label, predicted, confidence], 1)])
        self._worst = found[found[:, 0].argsort(descending=True, stable=True)[:WORST]]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        self._count()
        kept = {} if self._confusion is None else {"confusion": self._confusion.clone()}
        return {"samples": self.samples, "worst": self._worst, **kept}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state, of which only the number of samples is needed."""
        self.samples, self._pending = state["samples"], []
        self._worst = state.get("worst", self._worst).cpu()
        if self._confusion is not None:
            self._confusion = state.get("confusion", self._confusion).cpu().clone()

    def results(self, stream: Stream, worst: int = WORST) -> dict[str, Any]:
        """Return the counts and the worst samples with what they show, as plain values.

        Args:
            stream: The stream that the samples are of.
            worst: Number of samples, at most ``WORST``.

        Returns:
            ``samples``, ``confusion`` by true and predicted class, or None, and ``worst``, a list of ``loss``,
            ``position`` from 1, ``label``, ``predicted``, ``probability`` of that class, and ``row`` of the source,
            ``text`` or ``image``, where they are known.
        """
        state = self.state()
        shown = []
        for loss, *numbers, probability in state["worst"][:worst].tolist():
            position, label, predicted = map(int, numbers)
            known = {"loss": loss, "position": position + 1, "label": label, "predicted": predicted}
            shown.append({**known, "probability": probability, **_shown(stream, position, label)})
        confusion = state.get("confusion")
        return {
            "samples": self.samples,
            "confusion": None if confusion is None else confusion.tolist(),
            "worst": shown,
        }


def _shown(stream: Stream, position: int, label: int) -> dict[str, Any]:
    """Return the row of a sample and its text or thumbnail; empty where another one is there now, or none."""
    try:
        sample = stream.sample_at(position)
        if sample is None or int(sample["label"]) != label:
            return {}
        shown = {"text": _texts(sample["text"])} if "text" in sample else {"image": thumbnail(sample["image"])}
        return {"row": int(sample["row"]), **shown}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OSError):
        return {}  # a run does not fail at its end for an illustration


def _texts(text: str | tuple[str, ...]) -> list[str]:
    return [each[:TEXT] for each in ([text] if isinstance(text, str) else text)]


def thumbnail(image: Tensor) -> str:
    """Return an image, (C, H, W) uint8 or in 0..1, as a PNG of at most ``SIDE`` pixels a side, in base64."""
    from PIL import Image

    pixels = image if image.dtype == torch.uint8 else (255 * image.float().clamp(0, 1)).round().to(torch.uint8)
    rows = pixels[:3].permute(1, 2, 0).cpu().numpy() if len(pixels) > 2 else pixels[0].cpu().numpy()
    picture, buffer = Image.fromarray(rows), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def write_predictions(
    folder: Path, log: PredictionLog, stream: Stream, classes: tuple[str, ...], worst: int = WORST
) -> None:
    """Write the results of a log, the worst samples among them, with the names of the classes into a run's folder."""
    with atomic_write(folder / PREDICTIONS) as file:
        file.write(json.dumps(sealed({"classes": list(classes), **log.results(stream, worst)})) + "\n")
