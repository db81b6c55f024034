"""``filtune export``: a run's model for PEFT, transformers and timm, as a graph, and on the hub."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from filtune.lightning_modules.backbones.base import Backbone

from .card import write_card
from .graph_formats import GRAPHS
from .graphs import GraphFormat, write_graph
from .hub import find_repository
from .metadata import HubOptions, base_model_id
from .restore import Restored, example_outputs, restore
from .target import check_target, locked, named, whole_folder
from .units import fold_units
from .weights import merged_backbone, read_adapter, read_model, save_reader, write_adapter, write_model


def main(options: argparse.Namespace) -> None:
    """Export a checkpoint, by the options of ``filtune export``.

    Raises:
        ValueError: If options contradict each other, or the run cannot be exported as they say.
    """
    asked, hub = _format(options), HubOptions(None, options.base_model, options.license and options.license.lower())
    hub.check()
    graph = GRAPHS[asked]() if asked in GRAPHS else None
    if graph is not None:
        graph.check_installed()
    if options.private and options.push is None:
        raise ValueError("--private: goes with --push; name the repository by it, or leave --private out")
    repository = None
    if options.push is not None:
        repository = find_repository(options.push, options.private, options.overwrite)
        hub = HubOptions(repository.name, hub.base_model, hub.license)
    with _target(options, hub.repo) as target, locked(target):
        check_target(target, options.overwrite)
        run = restore(options.ckpt_path, options.config, options.own_class)
        if asked == "adapter" and not run.architecture.uses_peft:
            raise ValueError("--format adapter: the run has no adapter; leave --format out for the whole model")
        print(_export(run, target, asked == "merged", hub, graph), flush=True)
        if repository is not None:
            print(f"{repository.push(target)}: pushed{' as a private repository' if options.private else ''}")


def export(run: Restored, target: Path, merge: bool = False, graph: GraphFormat | None = None) -> str:
    """Write a run's model, load it back, and compare its outputs.

    Args:
        run: The run.
        target: The folder, new or to be replaced.
        merge: Write the whole model rather than an adapter.
        graph: Write the whole model as a graph of this format.

    Returns:
        One line about what was written.

    Raises:
        ValueError: If the model cannot be written so that it gives the same outputs, or another process writes there.
    """
    target = named(target)
    with locked(target):
        return _export(run, target, merge, HubOptions(), graph)


def _format(options: argparse.Namespace) -> str | None:
    """Return the format that is asked for; None for the adapter, or the whole model of a run without one."""
    if options.merge and options.format not in (None, "merged"):
        raise ValueError(f"--merge: is --format merged; leave it out beside --format {options.format}")
    return "merged" if options.merge else options.format


@contextmanager
def _target(options: argparse.Namespace, repo: str | None) -> Iterator[Path]:
    """Yield the folder of the export; without ``--to`` a temporary one for what is pushed."""
    if options.to is not None:
        yield named(options.to)
        return
    with TemporaryDirectory() as folder:
        yield Path(folder) / (repo or "model").rpartition("/")[2]


def _export(run: Restored, target: Path, merge: bool, hub: HubOptions, graph: GraphFormat | None) -> str:
    base_model_id(run, hub.base_model)  # checked before anything is written
    if graph is not None:
        return _export_graph(run, target, hub, graph)
    whole, base, note = merge or not run.architecture.uses_peft, None, fold_units(run)
    with whole_folder(target) as folder:
        if whole:
            write_model(run, folder)
        else:
            base = write_adapter(run, folder, target, hub.base_model)
            _check_base(run, hub, base == str(target.resolve() / "base"))
        difference = _difference(run, read_model(run, folder) if whole else read_adapter(run, folder))
        if not difference <= _tolerance(run):
            remedy = "" if whole else "; export the whole model with --merge"
            raise ValueError(
                f"model.backbone.adapter: {run.architecture.adapter} loaded back gives other outputs (they differ by "
                f"{difference:.1e}){remedy}"
            )
        write_card(run, folder, target, whole, base, difference, note, hub)
    what = f"the adapter ({run.architecture.adapter}) and the head"
    if whole:
        what = "the merged model" if run.architecture.uses_peft else "the whole model, which had no adapter"
    return f"{target}: {what}; loaded back, outputs differ by {difference:.1e} at most; README.md says how to load it"


def _export_graph(run: Restored, target: Path, hub: HubOptions, graph: GraphFormat) -> str:
    """Write the merged model as a graph; see :func:`export`."""
    note, option = fold_units(run), f"--format {graph.name}"
    merged = copy.deepcopy(merged_backbone(run, option)).float().eval()
    with whole_folder(target) as folder:
        save_reader(merged, run, folder)  # before the tokenizer is used, which then keeps how it has padded
        difference = _difference(run, merged)
        if not difference <= _tolerance(run):
            raise ValueError(
                f"{option}: {run.architecture.adapter} merged into the weights gives other outputs (they differ by "
                f"{difference:.1e}); export the adapter without --format"
            )
        written = write_graph(run, merged, graph, folder)
        write_card(run, folder, target, True, None, difference, note, hub, written)
    return (
        f"{target}: the whole model as a graph ({graph.title}); loaded back, outputs differ by "
        f"{written.difference:.1e} at most from the merged model's (rounding explains {written.tolerance:.1e}); "
        "README.md says how to load it"
    )


def _check_base(run: Restored, hub: HubOptions, is_own: bool) -> None:
    """Check that an adapter for the hub has a base model there.

    Args:
        run: The run.
        hub: The user's options.
        is_own: Whether the base weights are those of the run, which are nowhere else.

    Raises:
        ValueError: Naming what to do.
    """
    if hub.repo is None:
        return
    if is_own:
        raise ValueError("--push: the base weights of this adapter are nowhere else; push the whole model with --merge")
    if base_model_id(run, hub.base_model) is None:
        raise ValueError(
            f"--push: the base model of this adapter is {run.architecture.name}, which others do not have; name its "
            "hub id by --base_model, or push the whole model with --merge"
        )


def _difference(run: Restored, loaded: Backbone) -> float:
    return float((example_outputs(run.backbone, run) - example_outputs(loaded, run)).abs().max())


def _tolerance(run: Restored) -> float:
    """Return half the digits of the coarsest type of the model's weights; what is not loaded at all is off by more."""
    eps = max(torch.finfo(p.dtype).eps for p in run.backbone.parameters() if p.is_floating_point())
    return eps**0.5 * max(1.0, float(example_outputs(run.backbone, run).abs().max()))
