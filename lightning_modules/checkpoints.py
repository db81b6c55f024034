"""Checkpoints: files that a kill cannot spoil, and the checks that one belongs to the run that continues it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor, nn

from .atomic import atomic_write
from .defaults import with_defaults
from .legacy import translate, translate_checkpoint
from .runs import CheckpointError

COMPARED = ("seed_everything", "model", "data", "optimizer", "trainer.precision")
"""Keys of the configuration that must not change between a run and its continuation."""

SCHEDULED = ("trainer.max_epochs", "trainer.max_steps")
"""Further such keys where the learning rate decays towards the end of the run."""

IGNORED = ("model.optimizer_init",)
"""The command line's copy of ``optimizer``."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes to a temporary file in the same folder, syncs, and renames; loads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint so that ``path`` always holds a complete one."""
        with atomic_write(path, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; the entry ``filtune`` of an earlier release is returned in today's names.

        Raises:
            CheckpointError: If the file is missing, damaged, or holds anything but tensors and plain values.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"ckpt_path: there is no checkpoint {path}")
        try:
            checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:  # torch raises anything from EOFError to UnpicklingError on a damaged file
            reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
            raise CheckpointError(f"ckpt_path: {path} is damaged or not a checkpoint of filtune ({reason})") from error
        if not isinstance(checkpoint, dict) or "filtune" not in checkpoint:
            raise CheckpointError(f"ckpt_path: {path} is not a checkpoint of filtune")
        return {**checkpoint, "filtune": translate_checkpoint(checkpoint["filtune"])}

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def compare_configs(
    saved: dict[str, Any], current: dict[str, Any], ranks: tuple[int, int] = (1, 1), model: type | None = None
) -> None:
    """Refuse to continue a run with another configuration.

    Both are compared in today's names and with every option: one that a configuration leaves out has its default.
    The batch size that counts is that of all processes together.

    Args:
        saved: The configuration in the checkpoint, of this release or an earlier one.
        current: That of the run.
        ranks: How many processes each has.
        model: The class whose options ``model`` are; without it, those are compared as they are.

    Raises:
        CheckpointError: Naming each key that differs with both values.
    """
    if not saved or not current:
        return
    old, new = (
        dict(_flatten(_joint_batch(with_defaults(translate(config), model), count)))
        for config, count in zip((saved, current), ranks, strict=True)
    )
    keys = COMPARED + (SCHEDULED if new.get("model.schedule.decay", "none") != "none" else ())
    differing = [
        f"{key} (checkpoint {old.get(key)!r}, now {new.get(key)!r})"
        for key in sorted(old.keys() | new.keys())
        if _below(key, keys) and not _below(key, IGNORED) and old.get(key) != new.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"ckpt_path: the configuration contradicts the checkpoint: {'; '.join(differing)}; "
            "restore these values, or start a new run without --ckpt_path"
        )


def compare_names(saved: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse a checkpoint of another model.

    Raises:
        CheckpointError: Naming the first tensors that are missing, unexpected or of another shape.
    """
    missing, unexpected = sorted(expected.keys() - saved.keys()), sorted(saved.keys() - expected.keys())
    shapes = [name for name in saved.keys() & expected.keys() if saved[name].shape != expected[name].shape]
    for what, names in [("lacks", missing), ("has the unexpected", unexpected), ("has another shape of", shapes)]:
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"ckpt_path: the checkpoint {what} {names[0]}{more}; it belongs to another backbone, adapter or task"
            )


def frozen_fingerprint(model: nn.Module) -> int:
    """Return the CRC-32 of all frozen parameters, by which a resumed run detects another backbone."""
    checksum = 0
    for param in model.parameters():
        if not param.requires_grad:
            checksum = zlib.crc32(param.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), checksum)
    return checksum


def _joint_batch(config: dict[str, Any], ranks: int) -> dict[str, Any]:
    """Return the configuration with the batch size of all processes together."""
    arguments = (config.get("data") or {}).get("init_args") or {}
    if "batch_size" not in arguments:
        return config
    arguments = {**arguments, "batch_size": ranks * arguments["batch_size"]}
    return {**config, "data": {**config["data"], "init_args": arguments}}


def _below(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            local = isinstance(value, str) and ("/" in value or "\\" in value) and Path(value).exists()
            yield f"{prefix}{key}", str(Path(value).resolve()) if local else value
