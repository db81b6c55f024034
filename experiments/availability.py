"""Availability of the data and weights that a run needs."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError

from .classes import find_class
from .composition import Config, data_options, lookup

Where = Literal["none needed", "here", "download", "missing"]


@dataclass(frozen=True)
class Need:
    """Data or weights that a run needs.

    Attributes:
        kind: What it is.
        name: Hub id or folder.
        where: Whether it is on this machine, is to be downloaded, or cannot be had.
        reason: Why it cannot be had.
    """

    kind: Literal["data", "weights"]
    name: str
    where: Where
    reason: str = ""


def needs(config: Config, folders: dict[str, str]) -> list[Need]:
    """Return the data and weights that a composed configuration needs.

    Args:
        config: The configuration.
        folders: Where hub ids lie on this machine.
    """
    found = [_data(options, folders) for options in data_options(config.get("data")) if options.get("source")]
    data = [*dict.fromkeys(found or [Need("data", "embedded", "none needed")])]
    has_backbone = lookup(config, "model.backbone.name") is not None  # a measurement may have a model of its own
    return [*data, _weights(config, folders)] if has_backbone else data


def _data(options: Config, folders: dict[str, str]) -> Need:
    source = options["source"]
    local = Path(folders.get(source, source)).expanduser()
    if local.exists():
        return _configuration(source, local, options.get("name"))
    if source in folders or source.startswith((".", "/", "~")):
        return Need("data", source, "missing", f"there is no folder {local}")
    return Need("data", source, *_ask_hub("dataset", source))


def _configuration(source: str, folder: Path, name: str | None) -> Need:
    """Return whether a folder in the hub's layout has one of its configurations; checked only where it has several."""
    parts = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if name and len(parts) > 1 and not any(part == name or part.startswith(f"{name}-") for part in parts):
        reason = f"the folder has {', '.join(parts)} alone; name one that has {name} by --local {source}=FOLDER"
        return Need("data", f"{source} ({name})", "missing", reason)
    return Need("data", source, "here")


def _weights(config: Config, folders: dict[str, str]) -> Need:
    name = str(lookup(config, "model.backbone.name"))
    if Path(folders.get(name, name)).expanduser().is_dir():
        return Need("weights", name, "here")
    if name in folders:
        return Need("weights", name, "missing", f"there is no folder {folders[name]}")
    try:
        hub_id = _hub_id(config)
    except ValueError as error:
        return Need("weights", name, "missing", str(error))
    return Need("weights", name, "none needed") if hub_id is None else Need("weights", name, *_ask_hub("model", hub_id))


def _hub_id(config: Config) -> str | None:
    """Return the hub id of the weights of a configuration's backbone, as its class says; None where it needs none."""
    from filtune.lightning_modules.backbones import BackboneConfig
    from filtune.lightning_modules.backbones.build import backbone_of

    given = lookup(config, "model.backbone") or {}
    options = BackboneConfig(**{key: given[key] for key in ("name", "library", "pretrained") if key in given})
    data = lookup(config, "data.class_path")
    modality = getattr(find_class("data", data), "modality", None) if data else None
    return backbone_of(options, modality).hub_id(options)


@cache
def _ask_hub(kind: Literal["dataset", "model"], name: str) -> tuple[Where, str]:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    cached = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}" / "snapshots"
    if cached.is_dir() and any(cached.iterdir()):
        return "here", ""
    if not _reachable():
        return "missing", "not on this machine, and the hub cannot be reached; name a local copy by --local ID=FOLDER"
    try:
        HfApi().auth_check(name, repo_type=kind)
    except GatedRepoError:
        return "missing", f"gated: ask for access at the hub's page of {name}, then `hf auth login`"
    except RepositoryNotFoundError:
        return "missing", "the hub has nothing of this name, or it is not public"
    except Exception as error:  # of the HTTP library, whichever it is
        return "missing", f"the hub did not answer ({type(error).__name__})"
    return "download", ""


@cache
def _reachable() -> bool:
    """Return whether the hub answers, asked once."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except HTTPError:  # it answers
        return True
    except OSError:  # no network, no name, no answer
        return False
    return True
