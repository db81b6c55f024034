"""``filtune export``: a run's model for PEFT, transformers and timm."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from filtune.lightning_modules.backbones.base import Backbone

from .card import write_card
from .restore import Restored, example_outputs, restore
from .target import check_target, locked, named, whole_folder
from .units import fold_units
from .weights import read_adapter, read_model, write_adapter, write_model


def main(options: argparse.Namespace) -> None:
    """Export a checkpoint, by the options of ``filtune export``."""
    target = named(options.to)
    with locked(target):
        check_target(target, options.overwrite)
        print(_export(restore(options.ckpt_path, options.config, options.own_class), target, options.merge))


def export(run: Restored, target: Path, merge: bool = False) -> str:
    """Write a run's model, load it back, and compare its outputs.

    Args:
        run: The run.
        target: The folder, new or to be replaced.
        merge: Write the whole model rather than an adapter.

    Returns:
        One line about what was written.

    Raises:
        ValueError: If the model cannot be written so that it gives the same outputs, or another process writes there.
    """
    target = named(target)
    with locked(target):
        return _export(run, target, merge)


def _export(run: Restored, target: Path, merge: bool) -> str:
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
