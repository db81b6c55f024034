"""Code that loads an export, as its model card shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filtune.lightning_modules.backbones.image import ImageBackbone
from filtune.lightning_modules.backbones.text import TextBackbone
from filtune.lightning_modules.backbones.timm_models import TimmBackbone

from .graphs import GraphFormat
from .restore import Restored

ADAPTER_OWN = """\
import warnings

from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")  # between PEFT and transformers
folder = {folder!r}
config = AutoConfig.from_pretrained(f"{{folder}}/base")
base = AutoModelForSequenceClassification.from_pretrained({base}, config=config, ignore_mismatched_sizes=True)
model = PeftModel.from_pretrained(base, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
print(pipeline("text-classification", model=model, tokenizer=tokenizer)({text}, truncation=True, top_k=None))
"""

ADAPTER_MEAN = """\
import warnings

from filtune.exports import MeanPooledForSequenceClassification
from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer, pipeline

warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")  # between PEFT and transformers
folder = {folder!r}
config = AutoConfig.from_pretrained(f"{{folder}}/base")
base = MeanPooledForSequenceClassification.from_encoder({base}, config)
model = PeftModel.from_pretrained(base, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
print(pipeline("text-classification", model=model, tokenizer=tokenizer)({text}, truncation=True, top_k=None))
"""

WHOLE_TEXT = """\
from transformers import pipeline

classify = pipeline("text-classification", model={place!r})
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


class Code(str):
    """Python that stands in a template where a value would: its ``repr`` is itself."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Place:
    """The place of the export: a folder, or a repository of the hub.

    Attributes:
        folder: The folder, where there is no repository.
        repo: Id of the repository.
    """

    folder: Path
    repo: str | None = None

    @property
    def name(self) -> str:
        """The name by which transformers and PEFT load it."""
        return str(self.folder) if self.repo is None else self.repo

    @property
    def local(self) -> str:
        """The path of a folder with its files."""
        return str(self.folder) if self.repo is None else Code(f"snapshot_download({self.repo!r})")

    def file(self, name: str) -> str:
        """Return the path of one of its files."""
        if self.repo is None:
            return str(self.folder / name)
        return Code(f"hf_hub_download({self.repo!r}, {name!r})")

    def with_imports(self, code: str) -> str:
        """Return code after the import of what it calls of huggingface_hub."""
        needed = [name for name in ("hf_hub_download", "snapshot_download") if f"{name}(" in code]
        return f"from huggingface_hub import {', '.join(needed)}\n{code}" if needed else code


def loading_code(
    run: Restored, place: Place, whole: bool, name: str, kept: bool = False, graph: type[GraphFormat] | None = None
) -> str:
    """Return the code that loads an export and uses it once.

    Args:
        run: The run.
        place: Where the export is.
        whole: Whether it is the whole model.
        name: What an adapter's base weights are loaded by.
        kept: Whether they are in ``base/`` of the export instead.
        graph: The format of a graph.
    """
    fields: dict[str, Any] = {"folder": place.local, "place": place.name, "text": '"a text"', "name": name}
    if isinstance(run.backbone, ImageBackbone):
        fields |= image_inputs(run.backbone)
    if graph is not None:
        return place.with_imports(graph.load_code[run.task.modality].format(**fields))
    loads_whole = type(run.backbone).load_code
    has_library = isinstance(run.backbone, TextBackbone | TimmBackbone) or (whole and loads_whole)
    if not has_library or not type(run.backbone).__module__.startswith("filtune."):
        return place.with_imports(_own_code(run, place, whole, kept))
    if not isinstance(run.backbone, ImageBackbone):
        mean = run.architecture.head == "mean"
        if whole:
            return ("import filtune.exports\n" if mean else "") + WHOLE_TEXT.format(**fields)
        fields["base"] = 'f"{folder}/base"' if kept else repr(name)
        return place.with_imports((ADAPTER_MEAN if mean else ADAPTER_OWN).format(**fields))
    fields |= {"file": place.file("model.safetensors"), "outputs": run.task.outputs}
    fields["base"] = 'checkpoint_path=f"{folder}/base/model.safetensors"' if kept else "pretrained=True"
    return place.with_imports((loads_whole if whole else ADAPTER_IMAGE).format(**fields) + PIXELS.format(**fields))


def _own_code(run: Restored, place: Place, whole: bool, kept: bool) -> str:
    """Return how to load the model of a class outside filtune."""
    weights = place.file("model.safetensors" if whole else "base/model.safetensors")
    imports = ("" if whole else "\nfrom peft import PeftModel") + "\nfrom safetensors.torch import load_file"
    lines = [f"backbone.model.load_state_dict(load_file({weights!r}))"] if whole or kept else []
    lines += [] if whole else [f"backbone.model = PeftModel.from_pretrained(backbone.model, {place.name!r})"]
    own = type(run.backbone)
    names = {"module": own.__module__, "own": own.__name__, "name": run.architecture.name, "task": run.task}
    return OWN_CLASS.format(**names, imports=imports) + "\n".join([*lines, "backbone.eval()"])


def image_inputs(backbone: ImageBackbone) -> dict[str, Any]:
    """Return what the model expects of an image."""
    return {
        "size": backbone.size,
        "channels": backbone.channels,
        "mean": [round(value, 6) for value in backbone.mean.flatten().tolist()],
        "std": [round(value, 6) for value in backbone.std.flatten().tolist()],
    }
