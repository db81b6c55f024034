"""What makes a checkpoint this run's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

COMPARED = ("seed_everything", "model", "data", "optimizer", "trainer.precision")
"""Keys of the configuration that must not change between a run and its continuation."""

SCHEDULED = ("trainer.max_epochs", "trainer.max_steps")
"""Further such keys where the learning rate decays towards the end of the run."""


class CheckpointError(ValueError):
    """A checkpoint is corrupt, foreign, or contradicts the run that wants to continue it."""


def compare_configs(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse to continue a run with another configuration.

    Raises:
        CheckpointError: Naming each key that differs with both values.
    """
    if not saved or not current:
        return
    old, new = dict(_flatten(saved)), dict(_flatten(current))
    keys = COMPARED + (SCHEDULED if new.get("model.schedule.decay", "none") != "none" else ())
    differing = [
        f"{key} (checkpoint {old.get(key)!r}, now {new.get(key)!r})"
        for key in sorted(old.keys() | new.keys())
        if any(key == k or key.startswith(f"{k}.") for k in keys) and old.get(key) != new.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"ckpt_path: the configuration contradicts the checkpoint: {'; '.join(differing)}; "
            "restore these values, or start a new run without --ckpt_path"
        )


def joint_batch(config: dict[str, Any], ranks: int) -> dict[str, Any]:
    """A configuration with the batch size of all processes together, which is what shapes a run."""
    arguments = (config.get("data") or {}).get("init_args") or {}
    if "batch_size" not in arguments:
        return config
    arguments = {**arguments, "batch_size": ranks * arguments["batch_size"]}
    return {**config, "data": {**config["data"], "init_args": arguments}}


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


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            local = isinstance(value, str) and ("/" in value or "\\" in value) and Path(value).exists()
            yield f"{prefix}{key}", str(Path(value).resolve()) if local else value
