"""The model of a learner, and the copies of it that readers predict with while it learns."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from filtune.datamodules import Task
from filtune.lightning_modules import Backbone, BackboneConfig
from filtune.lightning_modules.step import OnlineStep
from filtune.lightning_modules.trust import OwnClasses
from torch import Tensor, nn

from .features import Features
from .prequential import LivePrequential


class LiveModel(OnlineStep, nn.Module):
    """The model and its metrics, under the names that they have in the checkpoints of ``fit``."""

    def __init__(self) -> None:
        super().__init__()
        self.target_state = None

    def build(self, config: BackboneConfig, task: Task, averaged_steps: int, own: OwnClasses = None) -> None:
        """Build the model and its metrics for a task; see :meth:`OnlineStep.build`."""
        super().build(config, task, averaged_steps, own)
        self.online: LivePrequential = LivePrequential(task)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {name: param for name, param in self.backbone.named_parameters() if param.requires_grad}


@dataclass(frozen=True)
class Snapshot:
    """The trained parameters after a step, which nothing changes any more.

    Attributes:
        tensors: Their values, or those of their mean where the learner keeps one, in the order of the model.
        target_value: Estimates that follow the targets.
        classes: The classes, in the order of the outputs.
        step: The number of steps taken.
        features: How the numbers of a table are standardised.
    """

    tensors: tuple[Tensor, ...]
    target_value: Any
    classes: tuple[Any, ...]
    step: int
    features: Features


def snapshot_of(model: LiveModel, classes: Sequence[Any], step: int, features: Features) -> Snapshot:
    """Return a copy of the trained parameters, O(n)."""
    mean = model.average.mean
    tensors = tuple((mean.get(name, param)).detach().clone() for name, param in model.trained().items())
    value = None if model.target_state is None else model.target_state.value()
    return Snapshot(tensors, value, tuple(classes), step, features)


class Readers:
    """Models that predict with a snapshot, as many as there are threads that predict at the same time.

    They share the frozen weights with the model that learns. A model is pointed to the tensors of a snapshot, which is
    a matter of references: nothing is copied, and an old snapshot is freed with its last reader.

    Args:
        model: The model that learns; it must not be learning just now, for it is copied once.
    """

    def __init__(self, model: LiveModel) -> None:
        self._names = list(model.trained())
        self._template = self._copy(model.backbone, share_tokenizer=False)
        self._free: list[Backbone] = []
        self._preparing = threading.Lock()

    @contextmanager
    def borrow(self, snapshot: Snapshot) -> Iterator[Backbone]:
        """Give a model with the parameters of a snapshot, for one prediction."""
        try:
            reader = self._free.pop()  # one bytecode, for which threads need no lock
        except IndexError:
            reader = self._copy(self._template)
        try:
            for name, tensor in zip(self._names, snapshot.tensors, strict=True):
                reader.get_parameter(name).data = tensor
            yield reader
        finally:
            self._free.append(reader)

    def prepare(self, reader: Backbone, batch: dict[str, Any]) -> Any:
        """Return the inputs of a batch; one thread at a time, for a fast tokenizer refuses to be used by two."""
        with self._preparing:
            return reader.preprocess(batch)

    def _copy(self, source: Backbone, share_tokenizer: bool = True) -> Backbone:
        """Return a copy that shares all tensors; those of the trained parameters are replaced when it is used."""
        memo: dict[int, Any] = {id(tensor): tensor for tensor in [*source.parameters(), *source.buffers()]}
        for name in self._names:
            param = source.get_parameter(name)
            memo[id(param)] = nn.Parameter(param.detach(), requires_grad=False)
        tokenizer = getattr(source, "tokenizer", None)
        if share_tokenizer and tokenizer is not None:
            memo[id(tokenizer)] = tokenizer
        return copy.deepcopy(source, memo)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which the model computes: mixed precision, or none."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
