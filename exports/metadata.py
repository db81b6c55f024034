"""The metadata of a model card that the hub reads: licence, task, base model, data and figures.

What is not known for certain is left out: a licence is that of the base model's own card or configuration, and a name
is a hub id where the run has loaded it from the hub.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filtune.experiments.escaping import plain
from filtune.optimizers.likelihoods import likelihood_of
from huggingface_hub import EvalResult, ModelCardData, constants, metadata_load, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id

from .restore import Restored

HUB_METRICS = {
    "macro_f1": "f1",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "top5": "top_5_accuracy",
}
"""Names of metrics on the hub, where they are not ours."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,60}")


@dataclass(frozen=True)
class HubOptions:
    """Options of ``filtune export`` that describe the model on the hub.

    Attributes:
        repo: The repository that it will be in; None for a folder on disk.
        base_model: Hub id of the base model; None to take the run's, where it loaded one from the hub.
        license: Licence of the exported model; None to take that of the base model.
    """

    repo: str | None = None
    base_model: str | None = None
    license: str | None = None

    def check(self) -> None:
        """Check the names.

        Raises:
            ValueError: Naming the option.
        """
        if self.base_model is not None and not is_hub_id(self.base_model):
            raise ValueError(f"--base_model: {self.base_model!r} is no hub id; name it as USER/MODEL")
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise ValueError(f"--license: {self.license!r} is no licence of the hub; name one such as mit")


def is_hub_id(name: str) -> bool:
    """Return whether a name can be that of a repository of the hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def base_model_id(run: Restored, named: str | None = None) -> str | None:
    """Return the hub id of the weights that a run started from; None where there are none, or they are of a folder.

    Args:
        run: The run.
        named: The user's own word for it.

    Raises:
        ValueError: If the user names one, and the run started from random weights.
    """
    name = run.architecture.name
    if not run.architecture.pretrained:
        if named is not None:
            raise ValueError(f"--base_model: the run started from random weights, not from {named}; leave it out")
        return None
    if named is not None or Path(name).expanduser().exists():
        return named
    found = type(run.backbone).hub_id(run.architecture)
    return found if found is not None and is_hub_id(found) else None


def base_license(run: Restored, hub_id: str | None) -> dict[str, str]:
    """Return the licence that the card or the configuration of the base model states; empty where it is not known.

    Args:
        run: The run.
        hub_id: The base model on the hub; its card is read where it is in the cache.
    """
    if not run.architecture.pretrained:
        return {}
    path = Path(run.architecture.name).expanduser()
    card: Any = None
    if path.exists():
        folder = path if path.is_dir() else path.parent
        card, settings = folder / "README.md", _json(folder / "config.json")
        own = settings.get("pretrained_cfg")
        settings = {**settings, **own} if isinstance(own, dict) else settings
    else:
        card = try_to_load_from_cache(hub_id, "README.md") if hub_id else None
        settings = getattr(run.backbone.plain_model, "pretrained_cfg", None) or {}
    for stated in (_metadata(card), settings):
        name = stated.get("license")
        if isinstance(name, str) and _LICENSE.fullmatch(name.lower()):
            return {"license": name.lower(), **(_other(stated) if name.lower() == "other" else {})}
    return {}


def _other(stated: dict[str, Any]) -> dict[str, str]:
    """Return name and address of a licence that the hub does not list."""
    name, link = stated.get("license_name"), stated.get("license_link")
    found = {"license_name": name} if isinstance(name, str) and _LICENSE.fullmatch(name) else {}
    is_address = isinstance(link, str) and re.fullmatch(r"https://[\w./%-]{1,200}", link, re.ASCII)
    return {**found, "license_link": link} if is_address else found


def card_data(
    run: Restored, name: str, library: str, tags: list[str], is_adapter: bool, hub: HubOptions
) -> ModelCardData:
    """Return the metadata of a model card.

    Args:
        run: The run.
        name: Name of the exported model.
        library: The library that loads it.
        tags: Further tags.
        is_adapter: Whether it is an adapter, which is loaded on the base model.
        hub: The user's options.
    """
    base = base_model_id(run, hub.base_model)
    licence = {"license": hub.license} if hub.license else base_license(run, base)
    relation = {"base_model_relation": "adapter" if is_adapter else "finetune"} if base else {}
    found = list(results(run))
    return ModelCardData(
        **licence,
        library_name=library,
        pipeline_tag=pipeline_tag(run),
        base_model=base,
        **relation,
        datasets=[dataset] if (dataset := dataset_id(run)) else None,
        metrics=list(dict.fromkeys(result.metric_type for result in found)) or None,
        tags=["filtune", *tags],
        model_name=plain(name) if found else None,
        eval_results=found or None,
    )


def pipeline_tag(run: Restored) -> str | None:
    """Return the task by the name of the hub and of transformers' pipelines; None where they have no name for it."""
    if run.task.modality == "text":
        return "text-classification"  # of numbers as well: a classifier with one output and no softmax
    return "image-classification" if likelihood_of(run.task.kind).has_classes else None


def dataset_id(run: Restored) -> str | None:
    """Return the hub id of the data; None where it may be a path that looks like one, not being in the hub's cache."""
    source = _data_options(run).get("source")
    if not isinstance(source, str) or "/" not in source or not is_hub_id(source) or Path(source).exists():
        return None
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="dataset")
    return source if folder.is_dir() else None


def is_last_step(run: Restored) -> bool:
    """Return whether the checkpoint is of the run's end, of which its summary is."""
    steps = run.summary.get("steps")
    return steps is None or run.checkpoint.get("global_step", steps) == steps


def results(run: Restored) -> Iterator[EvalResult]:
    """Yield the metrics of a finished run as the hub's model index has them: those in percent as fractions.

    They are the validation's, and those of the predictions before each update, on the training split.
    """
    summary, data, validation = run.summary, _data_options(run), run.summary.get("val")
    if not is_last_step(run):
        return
    online = {name.removeprefix("online_"): value for name, value in summary.items() if name.startswith("online_")}
    validation = validation if isinstance(validation, dict) else {}
    parts = (
        (_split(data, "val_split", "validation"), validation, "val_rows", "{}"),
        (_split(data, "train_split", "train"), online, "samples", "{} of predictions before each update (prequential)"),
    )
    config = data.get("name")
    for split, found, count, title in parts:
        samples = summary.get(count)
        for name, metric in likelihood_of(run.task.kind).metrics(run.task.outputs).items():
            value = found.get(name)
            if type(value) not in (int, float) or not math.isfinite(value):
                continue
            yield EvalResult(
                task_type=pipeline_tag(run) or "other",
                dataset_type=dataset_id(run) or plain(run.task.name),
                dataset_name=plain(run.task.name),
                dataset_config=plain(config) if isinstance(config, str) else None,
                dataset_split=split,
                dataset_args={"samples": samples} if type(samples) is int else None,
                metric_type=HUB_METRICS.get(name, name),
                metric_name=title.format(name.replace("_", " ")),
                metric_value=float(f"{value / (100 if metric.percent else 1):.6g}"),
            )


def _split(data: dict[str, Any], option: str, usual: str) -> str:
    return plain(data[option]) if isinstance(data.get(option), str) else usual


def _data_options(run: Restored) -> dict[str, Any]:
    """Return the options of the data module in the run's configuration."""
    options = (run.config.get("data") or {}).get("init_args")
    return options if isinstance(options, dict) else {}


def _metadata(card: Any) -> dict[str, Any]:
    """Return the metadata of a file README.md; empty where there is none, or it cannot be read."""
    if not isinstance(card, (str, Path)) or not Path(card).is_file():
        return {}
    try:
        found = metadata_load(card)
    except Exception:  # whatever a stranger's YAML raises
        return {}
    return found if isinstance(found, dict) else {}


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
