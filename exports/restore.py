"""A run's model and optimizer from its checkpoint, without the data it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filtune.datamodules import StreamDataModule, Task
from filtune.experiments.classes import find_class, optimizer_label
from filtune.lightning_modules import Backbone, BackboneConfig, build_backbone
from filtune.lightning_modules.backbones.errors import one_line
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO, check_inputs, compare_names, frozen_fingerprint
from filtune.lightning_modules.integrity import read_json, read_yaml
from filtune.lightning_modules.legacy import translate
from filtune.lightning_modules.optimization import group_parameters
from filtune.lightning_modules.runs import CheckpointError, find_checkpoint, unreadable
from filtune.lightning_modules.trust import ForeignClassError, OwnClasses, allow_optimizer, check_plain
from filtune.optimizers import OnlineOptimizer
from filtune.optimizers.likelihoods import Likelihood, likelihood_of
from filtune.optimizers.likelihoods.tasks import Coding, StreamState

PREFIX, TARGETS = "backbone.", "target_state."


@dataclass(frozen=True)
class Restored:
    """A run, restored from a checkpoint.

    Attributes:
        ckpt_path: The checkpoint.
        config: The run's configuration.
        checkpoint: The checkpoint's content.
        architecture: The configuration of the backbone.
        task: The task it was trained on.
        backbone: The backbone with the trained weights, their mean where the run kept one, in eval mode.
        own: Class paths that are not of filtune and that the user has named.
    """

    ckpt_path: Path
    config: dict[str, Any]
    checkpoint: dict[str, Any]
    architecture: BackboneConfig
    task: Task
    backbone: Backbone
    own: tuple[str, ...] = ()

    @property
    def coding(self) -> Coding:
        """The encoding of the labels."""
        return Coding(tuple(self.task.classes), dict(self.task.label_options))

    @cached_property
    def target_state(self) -> StreamState | None:
        """The state of the targets; None where the likelihood has none, or the run is of a release that had none."""
        state = likelihood_of(self.task.kind).build_state(self.task.outputs)
        saved = {
            name.removeprefix(TARGETS): tensor
            for name, tensor in self.checkpoint.get("state_dict", {}).items()
            if name.startswith(TARGETS)
        }
        if state is None or not saved:
            return None
        compare_names(saved, state.state_dict())
        state.load_state_dict(saved)
        return state

    def likelihood(self, outputs: torch.Tensor) -> Likelihood:
        """Return the likelihood of outputs (B, m), in the units of the run's targets."""
        value = None if self.target_state is None else self.target_state.value()
        return likelihood_of(self.task.kind).of(outputs, value)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Content of ``summary.json``; empty where the run is not finished."""
        file = _run_folder(self.ckpt_path) / "summary.json"
        return read_json(file) if file.is_file() else {}

    @property
    def optimizer_name(self) -> str:
        """The name of the run's optimizer, which is not imported for that."""
        return optimizer_label(self.config["optimizer"])

    @property
    def optimizer_class(self) -> type[OnlineOptimizer]:
        """The class of the run's optimizer."""
        return _class(self.config, "optimizer", self.own)

    def data(self) -> StreamDataModule:
        """Return the data module it was trained on, not set up."""
        return _build_data(self.config, self.own)

    def optimizer(self) -> OnlineOptimizer:
        """Return the run's optimizer over the backbone's parameters, with its state.

        Raises:
            ValueError: If the checkpoint has no state that the optimizer can read.
        """
        groups = group_parameters(self.backbone, self.config["model"].get("param_groups") or {})
        cls, arguments = self.optimizer_class, self.config["optimizer"].get("init_args") or {}
        allow_optimizer(cls, arguments, "--config: optimizer", self.own)
        optimizer = cls(groups, **arguments)
        try:
            optimizer.load_state_dict(self.checkpoint["optimizer_states"][0])
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            raise unreadable(error, str(self.ckpt_path)) from error
        return optimizer


def restore(ckpt_path: Path, config_path: Path | None = None, own: Sequence[str] = ()) -> Restored:
    """Build the run's backbone and load what was trained.

    Args:
        ckpt_path: A checkpoint, or a run's folder for its last one.
        config_path: Its configuration; by default ``config.yaml`` of the run's folder, or where there is none, and for
            the state of a learner, that in the checkpoint.
        own: Class paths that are not of filtune and that may be imported, because the user has named them; the
            configuration may name no others.

    Raises:
        ValueError: Naming what is missing or does not belong together.
    """
    ckpt_path = find_checkpoint(ckpt_path)
    checkpoint = AtomicCheckpointIO().load_checkpoint(ckpt_path)
    try:
        path = config_path or _run_folder(ckpt_path) / "config.yaml"
        held = checkpoint["filtune"].get("config")
        if config_path is None and held and ("live" in checkpoint or not path.is_file()):
            source = f"the configuration in {ckpt_path}"
            return _restore(ckpt_path, checkpoint, _checked(held, source, ("model", "optimizer")), source, own)
        return _restore(ckpt_path, checkpoint, _read(path), str(path), own)
    except (CheckpointError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise unreadable(error, str(ckpt_path)) from error


def _restore(
    ckpt_path: Path, checkpoint: dict[str, Any], config: dict[str, Any], source: str, own: Sequence[str]
) -> Restored:
    check_plain(config["model"].get("backbone"), "--config: model.backbone")
    known = {field.name for field in fields(BackboneConfig)}
    options = config["model"]["backbone"]
    if not isinstance(options, dict):
        raise ValueError(f"--config: {source}: model.backbone is no mapping of options")
    if set(options) - known:
        raise ValueError(f"--config: {source} has the unknown model.backbone.{min(set(options) - known)}")
    # without gradient checkpointing, whose results are the same
    architecture = BackboneConfig(**{**options, "gradient_checkpointing": False})
    task = describe_task(checkpoint["filtune"], config, own)
    try:
        backbone = rebuild_backbone(architecture, task, config.get("seed_everything"), own)
    except ForeignClassError:
        raise
    except (ValueError, OSError) as error:
        raise ValueError(f"{error}; a copy of {source} that says otherwise can be given by --config") from error
    saved = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}
    trained = {f"{PREFIX}{name}": param for name, param in backbone.named_parameters() if param.requires_grad}
    compare_names(saved, trained, earlier="format" not in checkpoint["filtune"])
    if checkpoint["filtune"]["fingerprint"] != frozen_fingerprint(backbone):
        raise ValueError(
            f"ckpt_path: {ckpt_path} was trained on other frozen weights than those of {architecture.name!r}; name the "
            "same backbone, and the same seed_everything where it is random, by --config"
        )
    check_inputs(checkpoint["filtune"].get("inputs") or {}, backbone.input_settings(), architecture.name)
    if mean := checkpoint["filtune"].get("weight_averaging", {}).get("mean"):
        saved = {f"{PREFIX}{name}": tensor for name, tensor in mean.items()}
        compare_names(saved, trained)
    for name, tensor in saved.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"ckpt_path: {ckpt_path}: {name.removeprefix(PREFIX)} is not finite, the run has diverged; take an "
                "earlier checkpoint, or train again"
            )
    with torch.no_grad():
        for name, param in trained.items():
            param.copy_(saved[name])
    return Restored(ckpt_path, config, checkpoint, architecture, task, backbone, tuple(own))


def rebuild_backbone(architecture: BackboneConfig, task: Task, seed: Any, own: OwnClasses = None) -> Backbone:
    """Return the backbone as a run with this seed starts with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if isinstance(seed, int) else 0)
        return build_backbone(architecture, task, own)


@torch.no_grad()
def example_outputs(backbone: Backbone, run: Restored) -> torch.Tensor:
    """Return outputs of a few made-up samples, (2, m)."""
    if run.task.modality == "text":
        return backbone(backbone.preprocess({"text": ["a text", "and a longer one, to be padded to"]}))
    shape = run.task.image_shape or (3, 32, 32)
    pixels = torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return backbone(backbone.preprocess({"image": pixels}))


def describe_task(saved: dict[str, Any], config: dict[str, Any], own: Sequence[str] = ()) -> Task:
    """Return the task in the checkpoint; of older ones, which lack it, that of the data.

    Args:
        saved: The checkpoint's own entry.
        config: The run's configuration.
        own: Class paths that are not of filtune and that may be imported.

    Raises:
        ValueError: If it is not in the checkpoint, and the data cannot be had.
    """
    if "task" in saved:
        known = {field.name for field in fields(Task)}
        return Task(**{name: value for name, value in saved["task"].items() if name in known})
    try:
        data = _build_data(config, own)
        data.setup()
    except ForeignClassError:
        raise
    except (ValueError, OSError) as error:
        raise ValueError(
            f"ckpt_path: the checkpoint does not say what its task is, and its data cannot be read ({error}); name "
            "the data in a copy of config.yaml given by --config"
        ) from error
    return data.task


def _build_data(config: dict[str, Any], own: Sequence[str]) -> StreamDataModule:
    """Return the data module of a configuration, those that it holds built as well."""

    def build(value: Any) -> Any:
        if isinstance(value, dict) and "class_path" in value:
            options = value.get("init_args") or {}
            return _find(value, "data", own)(**{name: build(option) for name, option in options.items()})
        return [build(item) for item in value] if isinstance(value, list) else value

    if not isinstance(config.get("data"), dict):
        raise ValueError("--config: the configuration in the checkpoint has no data; name one that has it by --config")
    try:
        return build(config["data"])
    except TypeError as error:
        raise ValueError(f"--config: data: {one_line(error)}") from error


def _class(config: dict[str, Any], section: str, own: Sequence[str]) -> Any:
    """Return the class that a section names.

    Raises:
        ValueError: If there is none, or it is not of filtune and the user has not named it: nothing else is imported.
    """
    check_plain(config[section].get("init_args"), f"--config: {section}.init_args")
    return _find(config[section], section, own)


def _find(named: dict[str, Any], section: str, own: Sequence[str]) -> Any:
    path = named.get("class_path")
    if not isinstance(path, str):
        raise ValueError(f"--config: {section}.class_path: there is no {path!r}")
    return find_class(section, path, f"--config: {section}.class_path", own)


def _run_folder(ckpt_path: Path) -> Path:
    return ckpt_path.resolve().parents[1]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"--config: the configuration {path} is not there; name the run's config.yaml by --config")
    return translate(_checked(read_yaml(path), str(path), ("model", "optimizer", "data")))


def _checked(config: Any, source: str, needed: Sequence[str]) -> dict[str, Any]:
    try:
        missing = [key for key in needed if not isinstance(config.get(key), dict)]
        missing += [] if missing or "backbone" in config["model"] else ["model.backbone"]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"--config: {source} is not a run's configuration") from error
    if missing:
        raise ValueError(f"--config: {source} is not a run's configuration; it has no {missing[0]}")
    return config
