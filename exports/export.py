"""``filtune export``: a run's model for PEFT, transformers and timm."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filtune.lightning_modules.atomic import explained_if_full, sweep, temporary_name
from filtune.lightning_modules.backbones.base import Backbone
from filtune.lightning_modules.locks import try_lock

from .card import write_card
from .restore import Restored, example_outputs, restore
from .units import fold_units
from .weights import read_adapter, read_model, write_adapter, write_model

MARK = "README.md"
"""File by which an export is recognised, together with one of ``WEIGHTS``."""

WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


def main(options: argparse.Namespace) -> None:
    """Export a checkpoint, by the options of ``filtune export``."""
    check_target(options.to, options.overwrite)
    print(export(restore(options.ckpt_path, options.config, options.own_class), options.to, options.merge))


def export(run: Restored, target: Path, merge: bool = False) -> str:
    """Write a run's model, load it back, and compare its outputs.

    Args:
        run: The run.
        target: The folder, new or to be replaced.
        merge: Write the whole model rather than an adapter.

    Returns:
        One line about what was written.

    Raises:
        ValueError: If the model cannot be written so that it gives the same outputs.
    """
    whole, base, note = merge or not run.architecture.uses_peft, None, fold_units(run)
    with whole_folder(target) as folder:
        if whole:
            write_model(run, folder)
        else:
            base = write_adapter(run, folder, target)
        difference = _difference(run, read_model(run, folder) if whole else read_adapter(run, folder))
        if not difference <= _tolerance(run):
            remedy = "" if whole else "; export the whole model with --merge"
            raise ValueError(
                f"model.backbone.adapter: {run.architecture.adapter} loaded back gives other outputs (they differ by "
                f"{difference:.1e}){remedy}"
            )
        write_card(run, folder, target, whole, base, difference, note)
    what = f"the adapter ({run.architecture.adapter}) and the head"
    if whole:
        what = "the merged model" if run.architecture.uses_peft else "the whole model, which had no adapter"
    return f"{target}: {what}; loaded back, outputs differ by {difference:.1e} at most; README.md says how to load it"


def _difference(run: Restored, loaded: Backbone) -> float:
    return float((example_outputs(run.backbone, run) - example_outputs(loaded, run)).abs().max())


def _tolerance(run: Restored) -> float:
    """Return half the digits of the coarsest type of the model's weights; what is not loaded at all is off by more."""
    eps = max(torch.finfo(p.dtype).eps for p in run.backbone.parameters() if p.is_floating_point())
    return eps**0.5 * max(1.0, float(example_outputs(run.backbone, run).abs().max()))


def check_target(target: Path, overwrite: bool) -> None:
    """Check that an export may be written there; an earlier one that a killed export had moved aside is put back.

    Raises:
        ValueError: If something is there already.
    """
    restore_moved(target)
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise ValueError(f"--to: {target} is not empty; name another folder, or replace it with --overwrite")
        if not ((target / MARK).is_file() and any((target / name).is_file() for name in WEIGHTS)):
            raise ValueError(f"--overwrite: {target} is not an earlier export, and is left alone; name another folder")
    elif target.exists() and not target.is_dir():
        raise ValueError(f"--to: {target} is a file; name a folder")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Return a temporary folder beside ``target`` that takes its place in the end, or is removed on an error.

    What killed exports of the same target have left is removed, after an earlier export that one had moved aside is
    put back.

    Raises:
        DiskFull: If there is no space left; what was there before is still there.
    """
    with explained_if_full(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        restore_moved(target)
        sweep(target)
        temporary = temporary_name(target)
        temporary.mkdir()
        descriptor = os.open(temporary, os.O_RDONLY)
        try_lock(descriptor)
        try:
            yield temporary
            moved = _moved(target)
            if target.exists():
                os.rename(target, moved)
            os.rename(temporary, target)
            shutil.rmtree(moved, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(descriptor)


def restore_moved(target: Path) -> None:
    """Put an earlier export back that a killed one had moved aside, or remove it where the new one had arrived."""
    moved = _moved(target)
    if moved.is_dir() and not target.exists():
        os.rename(moved, target)
    shutil.rmtree(moved, ignore_errors=True)


def _moved(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")
