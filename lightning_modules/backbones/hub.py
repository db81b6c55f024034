"""Ask the hub for weights, and say at once when it cannot be asked."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import RepositoryNotFoundError


def look_up(name: str, remedy: str) -> None:
    """See whether a model is at hand or the hub has it; libraries try for a minute where there is no network.

    Args:
        name: Local folder or hub id.
        remedy: What to do about it if not.

    Raises:
        ValueError: If it is neither here nor there.
    """
    if Path(name).is_dir():
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"model.backbone.name: there is no folder {name!r}; {remedy}")
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=10)
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"model.backbone.name: the hub has no model {name!r}, or it is not public; {remedy}"
        ) from error
    except Exception as error:  # of the HTTP library, whichever it is
        raise ValueError(
            f"model.backbone.name: {name!r} is not a local folder, and the hub could not be reached; {remedy}"
        ) from error
