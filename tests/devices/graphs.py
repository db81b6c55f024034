"""A recorder of steps that needs no CUDA device: it records the operations on the emulated one and replays them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from filtune.optimizers.step_graphs import RECORDERS

from tests.emulated_device import DEVICE, emulated_device, host_waits, recording


class EmulatedRecorder:
    """The emulated device as a recorder."""

    def __init__(self, device: torch.device = DEVICE) -> None:
        self.device = device

    def aside(self) -> AbstractContextManager[None]:
        """Run where everything runs."""
        return nullcontext()

    def watched(self) -> AbstractContextManager[list[str]]:
        """List the waits."""
        return host_waits()

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record a function."""
        with recording() as tape:
            result = work()
        return tape.replay, result


@contextmanager
def device_with_graphs() -> Iterator[None]:
    """Have an emulated device on which torch's rules count their steps, and that records."""
    devices = ["meta"]
    with (
        emulated_device(),
        mock.patch("torch.optim.adam._get_capturable_supported_devices", return_value=devices),
        mock.patch.dict(RECORDERS, {DEVICE.type: EmulatedRecorder}),
    ):
        yield
