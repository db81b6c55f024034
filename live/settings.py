"""Settings of a learner: from parts, or from a configuration. Both become plain values, which a checkpoint keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filtune.datamodules import Task
from filtune.experiments.classes import find_class, public_path
from filtune.experiments.composition import compose, find_config, merge_over, nested
from filtune.lightning_modules import BackboneConfig, Schedule
from filtune.lightning_modules.backbones.build import CLASS_PATH, backbone_of
from filtune.lightning_modules.trust import OwnClasses, allow_optimizer, check_plain
from filtune.optimizers import OnlineOptimizer
from filtune.optimizers.likelihoods import likelihood_of

from .features import FEATURES

Config = dict[str, Any]

PRECISIONS = {"32": "32-true", "32-true": "32-true", "bf16": "bf16-mixed", "bf16-mixed": "bf16-mixed"}
"""Precisions of a learner, by the names that the trainer gives them."""

OPEN = "open"
"""In place of classes: those of the labels that come."""


@dataclass(frozen=True)
class LearnerSettings:
    """Settings of a learner, in plain values.

    Attributes:
        config: ``seed_everything``, ``model``, ``optimizer``, ``data`` and ``trainer``, as in a run's ``config.yaml``.
        task: What is predicted; its classes are those of now.
        columns: The columns of a dict that are the input.
        takes_new: Whether a label that is no class becomes one.
        max_pending: Most samples that wait for their labels.
        total_steps: Length of the stream, for a learning rate that decays over it; None where there is no end.
        own: Classes outside filtune that may be imported; None for any, as the user has named them.
    """

    config: Config
    task: Task
    columns: list[str] = field(default_factory=list)
    takes_new: bool = False
    max_pending: int = 10_000
    total_steps: int | None = None
    own: OwnClasses = None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config.get("seed_everything") or 0)

    @property
    def model(self) -> Config:
        """The options of the model."""
        return self.config.get("model") or {}

    @property
    def architecture(self) -> BackboneConfig:
        """The configuration of the backbone.

        Raises:
            ValueError: If it has an option that there is not.
        """
        return read_backbone(self.model.get("backbone") or {}, self.own)

    @property
    def schedule(self) -> Schedule:
        """The schedule of the learning rate.

        Raises:
            ValueError: If it depends on the length of the stream, which was not given.
        """
        schedule = Schedule(**(self.model.get("schedule") or {}))
        if schedule.decay != "none" and self.total_steps is None:
            raise ValueError(
                f"model.schedule.decay: {schedule.decay} needs the length of the stream; give it by total_steps, or "
                "take a schedule without decay"
            )
        return schedule

    @property
    def precision(self) -> str:
        """The precision, ``32-true`` or ``bf16-mixed``.

        Raises:
            ValueError: If it is another.
        """
        asked = str((self.config.get("trainer") or {}).get("precision") or "32-true")
        if asked not in PRECISIONS:
            raise ValueError(f"trainer.precision: a learner has no {asked}; take 32-true or bf16-mixed")
        return PRECISIONS[asked]

    def optimizer_init(self) -> Callable[..., OnlineOptimizer]:
        """Return what builds the optimizer from parameter groups.

        Raises:
            ValueError: If there is no such class, or it has not these options.
        """
        section = self.config.get("optimizer") or {}
        path, options = section.get("class_path"), section.get("init_args") or {}
        check_plain(options, "optimizer.init_args", () if self.own is None else self.own)
        cls = find_class("optimizer", str(path), "optimizer", self.own)
        allow_optimizer(cls, options, "optimizer", self.own)

        def build(groups: Any) -> OnlineOptimizer:
            try:
                return cls(groups, **options)
            except TypeError as error:
                raise ValueError(f"optimizer: {' '.join(str(error).split())}; correct its options") from error

        return build


def from_parts(
    task: str | Task,
    backbone: str | Mapping[str, Any] | BackboneConfig,
    optimizer: Any,
    classes: Sequence[Any] | str,
    *,
    modality: Literal["text", "image", "table"] | None,
    image_shape: tuple[int, int, int] | None,
    model: Config,
    seed: int,
    precision: str,
    **rest: Any,
) -> LearnerSettings:
    """Return the settings of a learner of parts; the arguments are those of :class:`~live.learner.OnlineLearner`.

    Raises:
        ValueError: Naming the argument that is wrong.
    """
    options = asdict(backbone) if isinstance(backbone, BackboneConfig) else backbone
    options = {"name": options} if isinstance(options, str) else dict(options)
    config = {
        "seed_everything": seed,
        "model": {**model, "backbone": options},
        "optimizer": optimizer_section(optimizer),
        "trainer": {"precision": precision},
    }
    if isinstance(task, str):
        architecture = read_backbone(options, None)
        kind_of_input = modality or ("image" if image_shape else modality_of(architecture))
        task = make_task(task, classes, kind_of_input, usual_shape(architecture, image_shape))
    task = _with_features(task, rest.get("columns") or ())
    return LearnerSettings(config, task, takes_new=takes_new(classes, rest.pop("new_classes")), **rest)


def from_config(
    config: Any,
    classes: Sequence[Any] | str | None,
    new_classes: str,
    shape: tuple[int, int, int] | None = None,
    **rest: Any,
) -> LearnerSettings:
    """Return the settings of a learner of a configuration.

    Args:
        config: A file or the name of a shipped configuration, a list of these, or a dict.
        classes: The classes; by default those of the configuration's data, which is read for that.
        new_classes: ``refuse`` or ``add``.
        shape: (C, H, W) of images, where the classes are given and the data is not read.
        **rest: Other settings.

    Raises:
        ValueError: If the configuration has no optimizer or backbone, or its task cannot be known.
    """
    merged = compose_any(config)
    for key in ("model", "optimizer"):
        if not isinstance(merged.get(key), dict):
            raise ValueError(f"config: it has no {key}; name a configuration that has, such as 'quickstart'")
    options = (merged.get("data") or {}).get("init_args") or {}
    if not rest.get("columns"):
        found = options.get("text_columns") or options.get("image_column")
        rest["columns"] = [found] if isinstance(found, str) else list(found or [])
    task = _with_features(_task_of(merged, classes, shape), rest["columns"])
    return LearnerSettings(merged, task, takes_new=takes_new(classes, new_classes), **rest)


def compose_any(config: Any) -> Config:
    """Return a configuration with class paths and current names, of files, names or a dict."""
    parts = [config] if isinstance(config, str | Path | Mapping) else list(config)
    merged: Config = {}
    for part in parts:
        if isinstance(part, Mapping):
            merged = merge_over(merged, nested(json.loads(json.dumps(dict(part)))))
        else:
            merged = merge_over(merged, compose([str(part)]))
    return merged


def _with_features(task: Task, columns: Sequence[str]) -> Task:
    """Return a task of a table with as many places as columns are named, or :data:`FEATURES`; others as they are."""
    needed = task.modality == "table" and not task.features
    return replace(task, features=len(columns) or FEATURES) if needed else task


def _task_of(config: Config, classes: Sequence[Any] | str | None, shape: tuple[int, int, int] | None) -> Task:
    """Return the task of a configuration: that of its data, which is read unless the classes are given.

    Raises:
        ValueError: If there is neither data nor classes.
    """
    data, backbone = config.get("data") or {}, read_backbone(config["model"].get("backbone") or {}, None)
    cls = find_class("data", data["class_path"]) if data.get("class_path") else None
    options = data.get("init_args") or {}
    if classes is None and cls is None:
        raise ValueError("config: it names no data, by which the classes are known; give classes=[...], or 'open'")
    if classes is not None:
        kind = options.get("task") or "auto"
        modality = modality_of(backbone) if cls is None else cls.modality
        return make_task("classification" if kind == "auto" else kind, classes, modality, usual_shape(backbone, shape))
    assert cls is not None
    try:
        module = cls(**options)
    except TypeError as error:
        raise ValueError(f"config: data: {' '.join(str(error).split())}; give it, or classes=[...]") from error
    module.setup()
    return module.task


def usual_shape(backbone: BackboneConfig, given: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return the shape of the images, (C, H, W): that given, else what is usual for the backbone."""
    return given or ((1, 28, 28) if backbone.name.startswith("lenet") else (3, 224, 224))


def make_task(
    kind: str,
    classes: Sequence[Any] | str,
    modality: Literal["text", "image", "table"],
    shape: tuple[int, int, int] | None,
) -> Task:
    """Return the task of a kind, with its classes or without.

    Raises:
        ValueError: If there is no such kind, or its classes are missing.
    """
    likelihood = likelihood_of(kind)
    if isinstance(classes, str) and classes != OPEN:
        raise ValueError(f"classes: a list is needed, or 'open'; got {classes!r}")
    names = () if classes == OPEN else tuple(str(value) for value in classes)
    if likelihood.has_classes and not names and classes != OPEN:
        raise ValueError(f"classes: a {kind} task needs the classes, such as ['neg', 'pos'], or 'open'")
    if likelihood.is_softmax and len(names) == 1:
        raise ValueError("classes: there must be two at least; name them, or take 'open'")
    if names and not likelihood.has_classes:
        raise ValueError(f"classes: a {kind} task has none; leave them out")
    outputs = max(2, len(names)) if likelihood.is_softmax else len(names) or 1
    scaled = not likelihood.has_classes and likelihood.build_state(1) is not None
    shape = shape if modality == "image" else None
    return Task("live", kind, outputs, names, modality, shape, likelihood.validation_metrics, {}, scaled)


def takes_new(classes: Sequence[Any] | str | None, new_classes: str) -> bool:
    """Return whether new classes are taken.

    Raises:
        ValueError: If the choice is none.
    """
    if new_classes not in ("refuse", "add"):
        raise ValueError(f"new_classes: must be 'refuse' or 'add', got {new_classes!r}")
    return classes == OPEN or new_classes == "add"


def optimizer_section(optimizer: Any) -> Config:
    """Return the section of a configuration for an optimizer: a class, a partial of one, a name, or a section.

    Raises:
        ValueError: If it is none of these.
    """
    options: Config = {}
    while isinstance(optimizer, partial):
        if optimizer.args:
            raise ValueError("optimizer: a partial with keyword arguments alone is needed, such as partial(LoKO, p0=1)")
        optimizer, options = optimizer.func, {**optimizer.keywords, **options}
    if isinstance(optimizer, type) and issubclass(optimizer, OnlineOptimizer):
        return {"class_path": public_path(optimizer), "init_args": options}
    if isinstance(optimizer, str):
        try:
            return {"class_path": public_path(find_class("optimizer", optimizer, "optimizer")), "init_args": options}
        except ValueError:
            return dict(compose([str(find_config(optimizer, "optimizer"))]).get("optimizer") or {})
    if isinstance(optimizer, Mapping) and "class_path" in optimizer:
        return {**optimizer, "init_args": {**(optimizer.get("init_args") or {}), **options}}
    raise ValueError(f"optimizer: a class of filtune's, or its name, is needed; got {optimizer!r}")


def read_backbone(options: Mapping[str, Any], own: OwnClasses) -> BackboneConfig:
    """Return the configuration of a backbone.

    Raises:
        ValueError: If it has an option that there is not.
    """
    if own is not None:
        check_plain(options, "model.backbone")
    unknown = set(options) - {each.name for each in fields(BackboneConfig)}
    if unknown:
        raise ValueError(f"model.backbone: there is no option {min(unknown)!r}")
    return BackboneConfig(**options)


def modality_of(config: BackboneConfig) -> Literal["text", "image", "table"]:
    """Return the input of a backbone: by its library or class, or by what its folder is of; else text."""
    if config.library in ("timm", "transformers"):
        return "image" if config.library == "timm" else "text"
    found = backbone_of(config, None)
    if found.library == "builtin" or CLASS_PATH.fullmatch(config.name):
        return found.modality
    file = Path(config.name) / "config.json"
    if file.is_file():
        return "image" if "architecture" in json.loads(file.read_text(encoding="utf-8")) else "text"
    if config.name.startswith(("timm/", "hf-hub:")):
        return "image"
    if "/" in config.name:
        return "text"
    import timm

    return "image" if timm.is_model(config.name.partition(".")[0]) else "text"
