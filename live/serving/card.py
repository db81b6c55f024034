"""The model card of a service, as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from filtune.experiments.escaping import escape_markdown, markdown_code
from huggingface_hub import ModelCard, ModelCardData

if TYPE_CHECKING:
    from .service import LearnerService

MOST_CLASSES = 100
"""Names of classes in a card."""


def card(service: LearnerService) -> str:
    """Return a model card in Markdown, with the metadata of the hub."""
    learner, status = service.learner, service.status()
    settings, task = learner.settings, learner.task
    options = settings.architecture
    data = ModelCardData(
        library_name="filtune", tags=["online-learning"], pipeline_tag=f"{task.modality}-classification"
        if learner.classes else None,
    )  # fmt: skip
    classes = ", ".join(escape_markdown(str(value)) for value in learner.classes[:MOST_CLASSES])
    more = f" and {len(learner.classes) - MOST_CLASSES} more" if len(learner.classes) > MOST_CLASSES else ""
    base = Path(options.name).name if Path(options.name).expanduser().exists() else options.name
    lines = [
        f"# {escape_markdown(task.name)}",
        "",
        f"A model that learns while it is used, with {type(learner.optimizer).__name__} of filtune.",
        "",
        f"- Base: {markdown_code(base)}{'' if options.pretrained else ' with random weights'}, "
        f"adapter {markdown_code(str(options.adapter))}",
        f"- Task: {escape_markdown(task.kind)}{f' ({classes}{more})' if classes else ''}",
        f"- Input: {task.modality}",
        "- Every figure is of predictions that were made before their label was learned (prequential).",
        "",
        "| figure | value |",
        "|---|---|",
    ]
    figures = {**status["metrics"], "drifts_detected": status["drift"]["detected"], "log_position": status["position"]}
    lines += [f"| {name.replace('_', ' ')} | {value:.6g} |" for name, value in figures.items()]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n" + "\n".join(lines) + "\n"))
