"""``filtune fit --optimizer.help LoKO``: the options of an optimizer or a data module, by its name in any case."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from typing import Any

from filtune.experiments.classes import Option, classes, find_class, options
from filtune.experiments.composition import CONFIGS, lookup, read_part

from .arguments import FOLDERS
from .explain import describe_type


def asked(args: list[str]) -> tuple[str, str | None] | None:
    """Return the section whose help is requested and the name of the class, if one is given.

    Args:
        args: The options of ``fit`` or ``validate``.
    """
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        section = name.removeprefix("--").removesuffix(".help")
        if name.endswith(".help") and section in FOLDERS:
            after = args[i + 1] if i + 1 < len(args) and not args[i + 1].startswith("-") else None
            return section, (value if equals else after) or None
    return None


def show(command: str, section: str, name: str | None) -> None:
    """Print the options of a class or, without a name, the available classes and configurations.

    Args:
        command: ``fit`` or ``validate``, for the examples.
        section: ``optimizer`` or ``data``.
        name: Name of a class, in any case, or of a configuration.

    Raises:
        ValueError: If there is no such class; the message suggests similar names.
    """
    print(_classes(command, section) if name is None else _class(section, _of_configuration(section, name)))


def _of_configuration(section: str, name: str) -> str:
    """Return the class of a configuration where that is named, else the name as it is."""
    path = CONFIGS / FOLDERS[section] / f"{name}.yaml"
    known = {found.lower() for found in classes(section)}
    if name.lower() in known or not path.is_file():
        return name
    return str(lookup(read_part(path)[0], f"{section}.class_path"))


def _classes(command: str, section: str) -> str:
    found = classes(section)
    width = max(map(len, found))
    lines = [f"  {name:{width}}  {_first_line(cls)}" for name, cls in found.items()]
    stems = sorted(path.stem for path in (CONFIGS / FOLDERS[section]).glob("*.yaml"))
    given = textwrap.wrap(", ".join(stems), _width() - 4, break_on_hyphens=False)
    return "\n".join(
        [
            f"Classes for --{section}:",
            *lines,
            "",
            "and configurations of them:",
            *(f"  {line}" for line in given),
            "",
            f"filtune {command} --{section}.help NAME lists the options of one.",
        ]
    )


def _class(section: str, name: str) -> str:
    cls = find_class(section, name)
    lines = [f"--{section} {cls.__name__}: {_first_line(cls)}", ""]
    for option in options(section, cls).values():
        default = "required" if option.required else f"default: {_plain(option.default)}"
        lines.append(f"  --{section}.{option.name}  {describe_type(option.hint)} ({default})")
        lines += textwrap.wrap(_documentation(option), _width() - 6, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _first_line(cls: type) -> str:
    paragraph = (inspect.getdoc(cls) or "").split("\n\n")[0]
    text = " ".join(re.sub(r":\w+:`~?([^`]*)`", r"\1", paragraph).replace("``", "").split())
    return textwrap.shorten(text, _width(), placeholder=" ...")


def _documentation(option: Option) -> str:
    """Return the docstring of an option without the type and default that the parser adds."""
    text = re.sub(r"\s*\((required, )?type: .*\)$", "", option.help).replace("``", "")
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text)


def _plain(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if _hashable(value) else str(value)


def _hashable(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, 60), 100)
