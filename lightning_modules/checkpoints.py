"""Checkpoints: files that a kill cannot spoil, and the checks that one belongs to the run that continues it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from .atomic import atomic_write, explained_if_full
from .defaults import with_defaults
from .integrity import check_archive, seal_archive
from .legacy import translate, translate_checkpoint, with_former_defaults
from .runs import CheckpointError

COMPARED = (
    "seed_everything",
    "model",
    "data",
    "optimizer",
    "trainer.precision",
    "trainer.limit_train_batches",
    "trainer.overfit_batches",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
)
"""Keys of the configuration that must not change between a run and its continuation."""

SCHEDULED = ("trainer.max_epochs", "trainer.max_steps")
"""Further such keys where the learning rate decays towards the end of the run."""

IGNORED = ("model.optimizer_init", "data.init_args.num_workers", "model.on_divergence", "model.checksum_every")
"""The command line's copy of ``optimizer``, and what has no effect on the result."""

FORMAT = 2
"""Format of the entry ``filtune``; the first had no number, no list of the contents and no fingerprint of the data."""

CONTENTS = "filtune_contents"
"""Entry of a checkpoint that lists all others, by which one that was dropped or replaced is detected."""

_ENTRIES: dict[str, type] = {
    "filtune": dict, "state_dict": dict, "optimizer_states": list, "lr_schedulers": list, "loops": dict,
    "epoch": int, "global_step": int,
}  # fmt: skip
_FIELDS: dict[str, type] = {"config": dict, "fingerprint": int, "validation": dict, "rewinds": int}


class AtomicCheckpointIO(CheckpointIO):
    """Reading and writing of checkpoints, under a temporary name, synced and renamed; only plain values are loaded."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint with its checksum, so that ``path`` always holds a complete one.

        Raises:
            DiskFull: If there is no space left; the checkpoint before is still there.
        """
        with explained_if_full(Path(path)), atomic_write(path, "wb+") as file:
            torch.save({**checkpoint, CONTENTS: sorted(_contents(checkpoint))}, file)
            seal_archive(file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; the entry ``filtune`` of an earlier release is returned in today's names.

        Raises:
            CheckpointError: If the file is missing, damaged, incomplete, or holds more than tensors and values.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"ckpt_path: there is no checkpoint {path}")
        try:
            check_archive(Path(path))
            checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:  # torch raises anything from EOFError to UnpicklingError on a damaged file
            reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
            raise CheckpointError(
                f"ckpt_path: {path} is damaged or not a checkpoint of filtune ({reason}); take another checkpoint, or "
                "start a new run without --ckpt_path"
            ) from error
        if not isinstance(checkpoint, dict) or "filtune" not in checkpoint:
            raise CheckpointError(f"ckpt_path: {path} is not a checkpoint of filtune")
        try:
            _check_contents(checkpoint)
        except ValueError as error:
            raise CheckpointError(f"ckpt_path: {path} is incomplete or damaged: {error}") from error
        return {**checkpoint, "filtune": translate_checkpoint(checkpoint["filtune"])}

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def _check_contents(checkpoint: dict[str, Any]) -> None:
    """Check that all entries are there, those that the checkpoint lists and those that every release has written.

    Raises:
        ValueError: Naming what is missing or of another kind.
    """
    listed = checkpoint.pop(CONTENTS, None)
    for place, entries, needed in (
        ("", checkpoint, _ENTRIES),
        ("filtune.", checkpoint.get("filtune"), _FIELDS),
    ):
        for name, kind in needed.items():
            if not isinstance(entries, dict) or not isinstance(entries.get(name), kind):
                raise ValueError(f"it has no {place}{name}, or one of another kind")
    found = _contents(checkpoint)
    if listed is None and "format" not in checkpoint["filtune"]:
        return  # an earlier release's
    differing = sorted(found.symmetric_difference(listed or ()))
    if differing:
        lacks = differing[0] not in found
        raise ValueError(f"it {'lacks' if lacks else 'has the unexpected'} {differing[0]}, of {len(differing)} such")


def _contents(tree: Any, place: str = "") -> set[str]:
    """Return the places of all tensors and values in a tree, with the shape and type of each tensor.

    Raises:
        ValueError: If a tensor is sparse, quantized or without values, as none of a run is.
    """
    if isinstance(tree, Tensor):
        if tree.layout != torch.strided or tree.is_quantized or tree.is_meta:
            raise ValueError(f"{place} is no plain tensor")
        return {f"{place} {tuple(tree.shape)} {tree.dtype}"}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    found = {leaf for key, value in items for leaf in _contents(value, f"{place}.{key}" if place else str(key))}
    return found or {place}


def config_differences(
    saved: dict[str, Any], current: dict[str, Any], ranks: tuple[int, int] = (1, 1), model: type | None = None
) -> list[str]:
    """Return each setting in which a run's configuration differs from the checkpoint's, with both values.

    Both are compared in today's names and with every option: one that a configuration leaves out has its default.
    The batch size that counts is that of all processes together.

    Args:
        saved: The configuration in the checkpoint, of this release or an earlier one.
        current: That of the run.
        ranks: How many processes each has.
        model: The class whose options ``model`` are; without it, those are compared as they are.
    """
    if not saved or not current:
        return []
    old, new = (
        dict(_flatten(_joint_batch(with_defaults(_plain_settings(config), model, by_module=True), count)))
        for config, count in zip((with_former_defaults(saved), translate(current)), ranks, strict=True)
    )
    keys = COMPARED + (SCHEDULED if new.get("model.schedule.decay", "none") != "none" else ())
    return [
        f"{key} (checkpoint {old.get(key)!r}, now {new.get(key)!r})"
        for key in sorted(old.keys() | new.keys())
        if _below(key, keys) and not _below(key, IGNORED) and old.get(key) != new.get(key)
    ]


def compare_configs(
    saved: dict[str, Any], current: dict[str, Any], ranks: tuple[int, int] = (1, 1), model: type | None = None
) -> None:
    """Refuse to continue a run with another configuration; see :func:`config_differences`.

    Raises:
        CheckpointError: Naming each key that differs with both values.
    """
    refuse_changes(config_differences(saved, current, ranks, model), [], allowed=False)


def data_differences(
    saved: dict[str, Any] | None, current: dict[str, Any] | None, what: str = "checkpoint"
) -> list[str]:
    """Return each entry of the data's fingerprint in which a run differs from the checkpoint.

    Args:
        saved: The fingerprint in the checkpoint; None in one of an earlier release.
        current: That of the run; None of a data module without one.
        what: What the first is of, for the messages.
    """
    if saved is None or current is None:
        return []
    return [
        f"{name} ({what} {_short(saved.get(name))}, now {_short(current.get(name))})"
        for name in [*current, *(saved.keys() - current.keys())]
        if saved.get(name) != current.get(name)
    ]


def refuse_changes(settings: list[str], data: list[str], allowed: bool) -> None:
    """Refuse to continue a run whose settings or data have changed, or say so in one line where that is allowed.

    Args:
        settings: What differs in the configuration.
        data: What differs in the data.
        allowed: Whether ``run.resume_changed`` is set.

    Raises:
        CheckpointError: Naming what differs.
    """
    found = [f"the configuration contradicts the checkpoint: {'; '.join(settings)}"] if settings else []
    found += [f"the data is not that of the checkpoint: it differs in {'; '.join(data)}"] if data else []
    if found and allowed:
        rank_zero_warn(f"resumed all the same (--run.resume_changed): {'; '.join(found)}")
    elif found:
        raise CheckpointError(
            f"ckpt_path: {'; '.join(found)}; restore these, start a new run without --ckpt_path, or go on all the "
            "same with --run.resume_changed true"
        )


def compare_names(saved: dict[str, Tensor], expected: dict[str, Tensor], earlier: bool = False) -> None:
    """Refuse a checkpoint of another model.

    Args:
        saved: The checkpoint's tensors.
        expected: Those of the present model.
        earlier: Whether an earlier release wrote the checkpoint. Those left a module frozen at random for which the
            backbone has no weights, such as a pooler, and did not save it; now it is trained.

    Raises:
        CheckpointError: Naming the first tensors that are missing, unexpected or of another shape.
    """
    missing, unexpected = sorted(expected.keys() - saved.keys()), sorted(saved.keys() - expected.keys())
    shapes = [name for name in saved.keys() & expected.keys() if saved[name].shape != expected[name].shape]
    for what, names in [("lacks", missing), ("has the unexpected", unexpected), ("has another shape of", shapes)]:
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            reason = "it belongs to another backbone, adapter or task"
            if earlier and names == missing and not unexpected:
                reason += (
                    ", or to an earlier release, which neither trained nor saved what the backbone has no weights of; "
                    "then start a new run without --ckpt_path, or go on with that release"
                )
            raise CheckpointError(f"ckpt_path: the checkpoint {what} {names[0]}{more}; {reason}")


def translate_tensors(state: dict[str, Tensor]) -> None:
    """Give the tensors of a checkpoint of an earlier release their names of today."""
    for name in [name for name in state if name.startswith("online.moderated.")]:
        state[name.replace(".moderated.", ".predictive.")] = state.pop(name)
    if "online.samples" in state:
        state.setdefault("online.nonfinite", torch.zeros((), dtype=torch.int64))


def frozen_fingerprint(model: nn.Module) -> int:
    """Return the CRC-32 of all frozen parameters, by which a resumed run detects another backbone."""
    checksum = 0
    for param in model.parameters():
        if not param.requires_grad:
            checksum = zlib.crc32(param.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), checksum)
    return checksum


def check_inputs(saved: dict[str, Any], own: dict[str, Any], name: str) -> None:
    """Check that a backbone makes of its inputs what it made when a checkpoint was written.

    Args:
        saved: ``Backbone.input_settings`` of the checkpoint; empty in those of earlier releases.
        own: The same of today; entries that one of them lacks are those of other versions of a library.
        name: The backbone's name.

    Raises:
        CheckpointError: Naming the first that differs.
    """
    differ = [key for key in saved if key in own and saved[key] != own[key]]
    if differ:
        key = differ[0]
        values = "other values" if isinstance(saved[key], list) else f"{saved[key]} in the checkpoint, now {own[key]}"
        raise CheckpointError(
            f"ckpt_path: the backbone {name!r} has the weights of the checkpoint but reads its inputs otherwise: {key} "
            f"has {values}; restore its tokenizer and configuration"
        )


def check_task(saved: dict[str, Any] | None, kind: str, classes: Sequence[str]) -> None:
    """Check that a checkpoint has the present classes, in their order.

    Args:
        saved: The checkpoint's task; None in those of earlier releases.
        kind: The kind of the present task.
        classes: Its classes.

    Raises:
        CheckpointError: If not.
    """
    if saved is None:
        return
    if saved.get("kind") != kind:
        raise CheckpointError(f"ckpt_path: the checkpoint is of a {saved.get('kind')}, the data of a {kind}")
    before = list(saved.get("classes") or ())
    if before and before != list(classes):
        raise CheckpointError(
            f"ckpt_path: the checkpoint is of the classes {_listed(before)}, the data has {_listed(list(classes))}; "
            "set --data.classes to those of the checkpoint, in their order, or take the data they belong to"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")


def _short(value: Any) -> str:
    """Return a value of a fingerprint: a number in full, the first digits of a hash."""
    return str(value) if isinstance(value, int) or value is None else str(value)[:12]


def _plain_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with the seed and the precision that Lightning takes where none is given."""
    trainer = {
        name: value for name, value in (config.get("trainer") or {}).items() if (name, value) != ("precision", None)
    }
    return {"seed_everything": 0, **config, "trainer": trainer}


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
