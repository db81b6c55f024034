"""The ``README.md`` of an export: what it is of, how well it did, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filtune.experiments.escaping import escape_markdown, markdown_code
from filtune.lightning_modules.backbones.image import ImageBackbone
from filtune.lightning_modules.backbones.text import MeanPooled
from filtune.optimizers.likelihoods import likelihood_of
from huggingface_hub import ModelCard

from .card_code import Place, image_inputs, loading_code
from .graphs import Written
from .metadata import HubOptions, card_data, is_last_step
from .restore import Restored
from .weights import base_name

OF_MEAN = (
    "The head is a linear layer on the mean of the token states. The model's class comes with filtune "
    "(`import filtune.exports`); where filtune is not installed, {otherwise}."
)


def write_card(
    run: Restored,
    folder: Path,
    target: Path,
    whole: bool,
    base: str | None,
    difference: float,
    units: str = "",
    hub: HubOptions | None = None,
    graph: Written | None = None,
) -> None:
    """Write ``README.md`` and ``task.json``.

    Args:
        run: The run.
        folder: Where to write.
        target: What the folder will be called.
        whole: Whether it holds the whole model rather than an adapter.
        base: What the adapter's base weights are called.
        difference: Largest difference of the logits after loading back; of a graph, after the adapter is merged.
        units: A sentence about the units of the outputs, where they are not those of the targets.
        hub: The user's options about the hub; by default none.
        graph: The graph, if it is one.
    """
    hub = hub or HubOptions()
    place, name = Place(target.resolve(), hub.repo), hub.base_model or base_name(run)
    library = "peft" if not whole else graph.format.library if graph else _library(run)
    tags = [run.architecture.adapter] if run.architecture.uses_peft and run.architecture.adapter else []
    tags += [graph.format.name] if graph else []
    data = card_data(run, (hub.repo or target.name).rpartition("/")[2], library, tags, not whole, hub)
    lines = [f"# {escape_markdown(run.task.name)}", "", _opening(run, whole, graph), ""]
    lines += [*_facts(run, name, base, hub), *_differences(run, difference, graph), ""]
    notes = [note for note in (units, likelihood_of(run.task.kind).export_note) if note]
    lines += [" ".join(notes), ""] if notes else []
    lines += ["## Figures", "", *_figures(run), "", "## Load", ""]
    if graph is None and (isinstance(run.backbone.model, MeanPooled) or run.architecture.head == "mean"):
        otherwise = "pass `trust_remote_code=True`" if whole else "export with `--merge`"
        lines += [OF_MEAN.format(otherwise=otherwise), ""]
    kept = base is not None and base != name
    code = loading_code(run, place, whole, _loaded_name(run, hub), kept, graph.format if graph else None)
    lines += ["```python", code.rstrip(), "```", ""]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n" + "\n".join(lines))
    (folder / "README.md").write_text(str(card), encoding="utf-8")
    (folder / "task.json").write_text(json.dumps(_description(run), indent=2) + "\n")


def _library(run: Restored) -> str:
    return run.backbone.library if run.backbone.library != "builtin" else "filtune"


def _loaded_name(run: Restored, hub: HubOptions) -> str:
    """Return what the code of the card loads the base model by."""
    if hub.base_model is None:
        return base_name(run)
    return f"hf-hub:{hub.base_model}" if isinstance(run.backbone, ImageBackbone) else hub.base_model


def _opening(run: Restored, whole: bool, graph: Written | None) -> str:
    method = run.architecture.adapter if run.architecture.uses_peft else None
    kind = "The whole model" if whole else f"A PEFT adapter ({method}) with the head"
    merged = f", with its adapter ({method}) merged into the weights" if whole and method else ""
    kind = f"{kind} as a graph ({graph.format.title})" if graph else kind
    return f"{kind}{merged}, trained with {escape_markdown(run.optimizer_name)} of filtune."


def _facts(run: Restored, name: str, base: str | None, hub: HubOptions) -> Iterator[str]:
    """Yield the base model and the task; a card for the hub names a local folder without its path."""
    task, is_local = run.task, Path(run.architecture.name).expanduser().exists() and not hub.base_model
    shown = Path(run.architecture.name).name if is_local and hub.repo else name
    yield f"- Base: {markdown_code(shown)}{'' if run.architecture.pretrained else ' with random weights'}"
    if base is not None and base != name:
        yield "- The base's frozen weights are nowhere else; they are in `base/`"
    classes = ", ".join(f"{label} = {escape_markdown(name)}" for label, name in enumerate(task.classes))
    kind = f"{escape_markdown(task.kind)}{f' ({classes})' if classes else ''}"
    yield f"- Task: {escape_markdown(task.name)}, {kind}"


def _differences(run: Restored, difference: float, graph: Written | None) -> Iterator[str]:
    frozen = run.architecture.frozen
    kept = "" if frozen == "float32" else f", which had its frozen weights in {frozen}; here they are loaded in float32"
    if graph is None:
        yield f"- Loaded back, its outputs differed by {difference:.1e} at most from the run's{kept}"
        return
    yield f"- Merged, its outputs differed by {difference:.1e} at most from the run's{kept}"
    yield (
        f"- Loaded back, the graph's outputs differed by {graph.difference:.1e} at most from those of the merged model "
        f"in PyTorch; rounding in float32 explains up to {graph.tolerance:.1e}"
    )
    inputs = ", ".join(f"`{name}` ({', '.join(map(str, shape))})" for name, shape in graph.inputs.items())
    most = f", of at most {graph.length} tokens" if graph.length else ", normalised"
    yield f"- Inputs: {inputs}{most}; output: `logits` (batch, {run.task.outputs})"


def _figures(run: Restored) -> list[str]:
    summary: dict[str, Any] = run.summary
    if not summary:
        return ["The run was not finished; it has no summary."]
    validation = summary.get("val") if isinstance(summary.get("val"), dict) else {}
    figures = {key: value for key, value in summary.items() if key.startswith("online_")}
    figures |= {f"validation {key}": value for key, value in validation.items()}
    figures |= {key.replace("_", " "): summary[key] for key in ("samples", "steps", "seed") if key in summary}
    shown = {
        escape_markdown(key.replace("_", " ")): _short(value) for key, value in figures.items() if value is not None
    }
    rows = [f"| {key} | {value} |" for key, value in shown.items()]
    later = f"The figures are of the end of the run; this checkpoint is of step {run.checkpoint.get('global_step')}."
    return [*([] if is_last_step(run) else [later, ""]), "| Figure | Value |", "|---|---|", *rows]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape_markdown(value)


def _description(run: Restored) -> dict[str, Any]:
    """Return the task, the classes in the order of the outputs, and what the model expects of an image."""
    task, backbone = run.task, run.backbone
    described: dict[str, Any] = {"name": task.name, "kind": task.kind, "classes": list(task.classes)}
    if isinstance(backbone, ImageBackbone):
        described["image"] = image_inputs(backbone)
    return described
