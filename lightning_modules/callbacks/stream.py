"""All runs of one command learn from one stream: a further run is refused where the data has changed since."""

from __future__ import annotations

import json
import os
from typing import Any

import lightning.pytorch as pl

from ..checkpoints import data_differences
from ..runs import STREAM


class SameStream(pl.Callback):
    """Callback that compares the data of a run with that of the command's first run, before the first step.

    Args:
        stream: Fingerprint of the first run's data; by default that in the environment variable ``FILTUNE_STREAM``.
    """

    def __init__(self, stream: dict[str, Any] | None = None) -> None:
        given = os.environ.get(STREAM) if stream is None else None
        self.stream = json.loads(given) if given else stream

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the data with that of the first run.

        Raises:
            ValueError: If the data has changed; names what differs.
        """
        found = data_differences(self.stream, getattr(pl_module, "data_fingerprint", None), "first run")
        if found:
            raise ValueError(
                f"data: it has changed since the command began, and its runs are to learn from one stream: it differs "
                f"in {'; '.join(found)}; repeat the command, and leave the data as it is until the command ends"
            )
