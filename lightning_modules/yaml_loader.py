"""YAML as filtune reads it: plain values only, ``1e-3`` is a number, and no mapping has a key twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class DuplicateKeyError(yaml.constructor.ConstructorError):
    """A mapping of YAML has a key twice."""


class _Loader(yaml.SafeLoader):
    """YAML loader that parses ``1e-3`` as a number and refuses a key that a mapping has twice."""

    inside_anchor = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return a node; an alias within an anchor is an error, because it would repeat that without bounds."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            if self.inside_anchor:
                problem = f"the alias *{event.anchor} stands within an anchor; write out what it repeats"
                raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
            return super().compose_node(parent, index)
        named = getattr(event, "anchor", None) is not None
        self.inside_anchor += named
        try:
            return super().compose_node(parent, index)
        finally:
            self.inside_anchor -= named

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node; a key that stands there twice is an error."""
        seen: dict[Any, yaml.Mark] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                problem = f"{key.value} stands there twice, first in line {seen[key.value].line + 1}; leave one out"
                raise DuplicateKeyError(None, None, problem, key.start_mark)
            seen[key.value] = key.start_mark
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+$"), [*"-+0123456789"])


def parse_yaml(text: str) -> Any:
    """Return the content of YAML: plain values only, ``1e-3`` a number.

    Raises:
        yaml.YAMLError: If it is not YAML, has a tag of a class, or has a key twice.
    """
    return yaml.load(text, _Loader)


def load_yaml(path: Path, label: str) -> tuple[str, Any]:
    """Return the text of a file of YAML, and its content.

    Args:
        path: The file.
        label: What the error begins with.

    Raises:
        ValueError: If it is not YAML of plain values; the message has the line and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return text, parse_yaml(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{label}: is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise ValueError(f"{label}: is not YAML; {place}{' '.join(str(problem).split())}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a date of the 13th month
        raise ValueError(f"{label}: is not YAML; {' '.join(str(error).split())}") from error


def parse_value(text: str) -> Any:
    """Return a value parsed as YAML, with ``1e-3`` as a number; what is no YAML is text.

    Raises:
        ValueError: If it is a mapping that has a key twice.
    """
    try:
        value = parse_yaml(text) if text else text
    except DuplicateKeyError as error:
        raise ValueError(f"{text}: {error.problem}") from error
    except (yaml.YAMLError, ValueError):  # such as a date of the 13th month: then it is text
        return text
    return parse_number(value)


def parse_number(value: Any) -> Any:
    """Return the number that a string spells, such as ``1e-3``, which YAML 1.1 reads as a string; else the value."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
