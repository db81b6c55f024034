"""Classes that may be imported and called: a user's own configuration may name its own, files of a run may not.

A run's folder, a checkpoint or a record may come from a stranger. What is read from one may name optimizers, data
modules and backbones of filtune, and nothing else is imported for it, let alone called. A user-defined class, which
``fit`` was given, is named again on the command line of ``validate``, ``predict`` and ``export``: ``--own_class``.
docs/security.md says what each kind of file may do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

OwnClasses = Collection[str] | None
"""Class paths that a user has named on the command line; None where a configuration of the user's may name any."""

SWITCH = "--own_class"
"""The option that names a user-defined class."""


class ForeignClassError(ValueError):
    """A file of a run names a class that is not of filtune."""


def check_own(path: str, label: str, own: OwnClasses) -> None:
    """Refuse to import a class that is not of filtune, unless the user has named it.

    Args:
        path: Its class path.
        label: Where it is named, for the message.
        own: What the user has named.

    Raises:
        ForeignClassError: If a file names it, and the user has not.
    """
    if own is not None and path not in own:
        raise ForeignClassError(
            f"{label}: {path} is not a class of filtune, and nothing else is imported for a run's files; if it is your "
            f"own, name it on the command line: {SWITCH} {path}"
        )


def allow_optimizer(cls: type, arguments: Mapping[str, Any], label: str, own: OwnClasses) -> None:
    """Let an optimizer import the class that its options name, where the user has named that class.

    Args:
        cls: The optimizer's class.
        arguments: Its options.
        label: Where they stand, for the message.
        own: What the user has named.

    Raises:
        ForeignClassError: If a file names a class of another package than the optimizers', and the user has not.
    """
    from filtune.optimizers.torch_classes import PACKAGES, allow_rules

    option = getattr(cls, "class_option", "")
    path = arguments.get(option) if option else None
    if isinstance(path, str) and path.rpartition(".")[0] not in PACKAGES:
        check_own(path, f"{label}.{option}", own)
        allow_rules([path])


def check_plain(config: Any, label: str, allowed: Collection[str] = ()) -> None:
    """Refuse a part of a configuration that names classes, where plain values are expected.

    Args:
        config: The part.
        label: Its dotted key.
        allowed: Class paths that it may name.

    Raises:
        ForeignClassError: Naming the place and the class.
    """
    for place, path in named_classes(config, label):
        if path not in allowed:
            raise ForeignClassError(f"{place}: names the class {path}, where none is expected; remove it")


def named_classes(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the place and the class path of each class that a configuration names, outer ones first."""
    if isinstance(tree, dict):
        if "class_path" in tree:
            yield place, tree["class_path"]
        for name, value in tree.items():
            yield from named_classes(value, f"{place}.{name}".lstrip("."))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from named_classes(value, f"{place}[{index}]")
