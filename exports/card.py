"""The ``README.md`` of an export: what it is of, how well it did, and how to load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filtune.experiments.escaping import escape_markdown, markdown_code
from filtune.lightning_modules.backbones.image import ImageBackbone
from filtune.lightning_modules.backbones.text import MeanPooled, TextBackbone
from filtune.lightning_modules.backbones.timm_models import TimmBackbone
from filtune.optimizers.likelihoods import likelihood_of

from .restore import Restored
from .weights import base_name

ADAPTER_OWN = """\
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

folder = {folder!r}
config = AutoConfig.from_pretrained(f"{{folder}}/base")
base = AutoModelForSequenceClassification.from_pretrained({base}, config=config, ignore_mismatched_sizes=True)
model = PeftModel.from_pretrained(base, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
print(pipeline("text-classification", model=model, tokenizer=tokenizer)({text}, truncation=True, top_k=None))
"""

ADAPTER_MEAN = """\
from filtune.exports import MeanPooledForSequenceClassification
from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer, pipeline

folder = {folder!r}
config = AutoConfig.from_pretrained(f"{{folder}}/base")
base = MeanPooledForSequenceClassification.from_encoder({base}, config)
model = PeftModel.from_pretrained(base, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
print(pipeline("text-classification", model=model, tokenizer=tokenizer)({text}, truncation=True, top_k=None))
"""

WHOLE_TEXT = """\
from transformers import pipeline

classify = pipeline("text-classification", model={folder!r}{trust})
print(classify({text}, truncation=True, top_k=None))
"""

ADAPTER_IMAGE = """\
import timm
import torch
from peft import PeftModel

folder = {folder!r}
base = timm.create_model({name!r}, num_classes={outputs}, {base})
model = PeftModel.from_pretrained(base, folder).eval()
"""

OWN_CLASS = """\
from filtune import BackboneConfig, Task
from {module} import {own}{imports}

backbone = {own}.build(BackboneConfig({name!r}, pretrained=False), {task!r})
"""

PIXELS = """\
images = torch.rand(1, {channels}, {size}, {size})  # in 0..1, resized to {size} x {size}
mean, std = torch.tensor({mean}).view(-1, 1, 1), torch.tensor({std}).view(-1, 1, 1)
print(model((images - mean) / std))
"""

OF_MEAN = (
    "The head is a linear layer on the mean of the token states. The model's class comes with filtune "
    "(`import filtune.exports`); where filtune is not installed, {otherwise}."
)


def write_card(
    run: Restored, folder: Path, target: Path, whole: bool, base: str | None, difference: float, units: str = ""
) -> None:
    """Write ``README.md`` and ``task.json``.

    Args:
        run: The run.
        folder: Where to write.
        target: What the folder will be called.
        whole: Whether it holds the whole model rather than an adapter.
        base: What the adapter's base weights are called.
        difference: Largest difference of the logits after loading back.
        units: A sentence about the units of the outputs, where they are not those of the targets.
    """
    task, name, title = run.task, base_name(run), escape_markdown(run.task.name)
    library = run.backbone.library if run.backbone.library != "builtin" else "filtune"
    front = {"library_name": library if whole else "peft"}
    front |= {} if whole else {"base_model": base}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", f"# {title}", ""]
    method = run.architecture.adapter
    kind = "The whole model" if whole else f"A PEFT adapter ({method}) with the head"
    merged = f", with its adapter ({method}) merged into the weights" if whole and method else ""
    lines += [f"{kind}{merged}, trained with {escape_markdown(run.optimizer_name)} of filtune.", ""]
    lines += [f"- Base: {markdown_code(name)}{'' if run.architecture.pretrained else ' with random weights'}"]
    if base is not None and base != name:
        lines += ["- The base's frozen weights are nowhere else; they are in `base/`"]
    classes = ", ".join(f"{label} = {escape_markdown(name)}" for label, name in enumerate(task.classes))
    lines += [f"- Task: {title}, {escape_markdown(task.kind)}{f' ({classes})' if classes else ''}"]
    frozen = run.architecture.frozen
    kept = "" if frozen == "float32" else f", which had its frozen weights in {frozen}; here they are loaded in float32"
    lines += [f"- Loaded back, its outputs differed by {difference:.1e} at most from the run's{kept}", ""]
    notes = [note for note in (units, likelihood_of(task.kind).export_note) if note]
    lines += [" ".join(notes), ""] if notes else []
    lines += ["## Figures", "", *_figures(run.summary), "", "## Load", ""]
    if isinstance(run.backbone.model, MeanPooled) or run.architecture.head == "mean":
        otherwise = "pass `trust_remote_code=True`" if whole else "export with `--merge`"
        lines += [OF_MEAN.format(otherwise=otherwise), ""]
    lines += ["```python", _code(run, target.resolve(), whole, base).rstrip(), "```", ""]
    (folder / "README.md").write_text("\n".join(lines))
    (folder / "task.json").write_text(json.dumps(_description(run), indent=2) + "\n")


def _figures(summary: dict[str, Any]) -> list[str]:
    if not summary:
        return ["The run was not finished; it has no summary."]
    online = {key: value for key, value in summary.items() if key.startswith("online_")}
    figures = {**online, **{f"validation {key}": value for key, value in (summary.get("val") or {}).items()}}
    figures |= {key.replace("_", " "): summary[key] for key in ("samples", "steps", "seed") if key in summary}
    shown = {
        escape_markdown(key.replace("_", " ")): _short(value) for key, value in figures.items() if value is not None
    }
    rows = [f"| {key} | {value} |" for key, value in shown.items()]
    return ["| Figure | Value |", "|---|---|", *rows]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape_markdown(value)


def _code(run: Restored, folder: Path, whole: bool, base: str | None) -> str:
    name, kept = base_name(run), base is not None and base != base_name(run)
    loads_whole = type(run.backbone).load_code
    has_library = isinstance(run.backbone, TextBackbone | TimmBackbone) or (whole and loads_whole)
    if not has_library or not type(run.backbone).__module__.startswith("filtune."):
        return _own_code(run, folder, whole, kept)
    if not isinstance(run.backbone, ImageBackbone):
        mean = run.architecture.head == "mean"
        fields = {"folder": str(folder), "text": '"a text"', "trust": ""}
        if whole:
            return ("import filtune.exports\n" if mean else "") + WHOLE_TEXT.format(**fields)
        weights = 'f"{folder}/base"' if kept else repr(name)
        return (ADAPTER_MEAN if mean else ADAPTER_OWN).format(base=weights, **fields)
    description = _description(run)["image"]
    fields = {"folder": str(folder), "file": str(folder / "model.safetensors"), "outputs": run.task.outputs}
    fields |= {
        "name": name,
        "base": 'checkpoint_path=f"{folder}/base/model.safetensors"' if kept else "pretrained=True",
    }
    template = loads_whole if whole else ADAPTER_IMAGE
    return template.format(**fields, channels=description["channels"]) + PIXELS.format(**description)


def _own_code(run: Restored, folder: Path, whole: bool, kept: bool) -> str:
    """Return how to load the model of a class outside filtune."""
    weights = folder / ("model.safetensors" if whole else "base/model.safetensors")
    imports = ("" if whole else "\nfrom peft import PeftModel") + "\nfrom safetensors.torch import load_file"
    lines = [f"backbone.model.load_state_dict(load_file({str(weights)!r}))"] if whole or kept else []
    lines += [] if whole else [f"backbone.model = PeftModel.from_pretrained(backbone.model, {str(folder)!r})"]
    own = type(run.backbone)
    names = {"module": own.__module__, "own": own.__name__, "name": run.architecture.name, "task": run.task}
    return OWN_CLASS.format(**names, imports=imports) + "\n".join([*lines, "backbone.eval()"])


def _description(run: Restored) -> dict[str, Any]:
    """The task, the classes in the order of the outputs, and what the model expects of an image."""
    task, backbone = run.task, run.backbone
    described: dict[str, Any] = {"name": task.name, "kind": task.kind, "classes": list(task.classes)}
    if isinstance(backbone, ImageBackbone):
        described["image"] = {
            "size": backbone.size,
            "channels": backbone.channels,
            "mean": [round(value, 6) for value in backbone.mean.flatten().tolist()],
            "std": [round(value, 6) for value in backbone.std.flatten().tolist()],
        }
    return described
