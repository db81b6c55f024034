"""Errors of a configuration in one line that names the option and the remedy."""

from __future__ import annotations

import copy
import re
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import filtune
from filtune.experiments.classes import Option, classes, find_class, options
from filtune.experiments.composition import Config, assign, lookup, nested, read_part
from filtune.lightning_modules.defaults import held_dataclass

from .arguments import FOLDERS, CommandLine
from .class_errors import explain_class
from .suggestions import did_you_mean, nearest, suggest

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


class Schema:
    """The keys that a configuration may have.

    Args:
        parser: The parser of ``fit`` or ``validate``.
        command: Its name, for messages.
    """

    def __init__(self, parser: Any, command: str) -> None:
        self.command = command
        self.hints: dict[str, Any] = {}
        for action in parser._actions:  # argparse has no public way to list its options
            hint = getattr(action, "_typehint", None)
            for name in action.option_strings:
                key = name.removeprefix("--")
                if name.startswith("--") and not key.endswith((".help", "+")):
                    self.hints[key] = hint if hint is not None else action.type
        self.hints["seed_everything"] = int  # Lightning's true and false are refused

    def known(self, line: CommandLine, key: str) -> list[str] | None:
        """Return the candidates for a key that does not exist, or None if it exists."""
        section, _, rest = key.rstrip("+").partition(".")
        if section in FOLDERS and rest:
            return self._known_of_class(line, section, rest)
        way = key.rstrip("+").split(".")
        for depth in range(len(way), 0, -1):
            prefix = ".".join(way[:depth])
            if prefix in self.hints:
                return _below(self.hints[prefix], prefix, way[depth:]) or self._inside(prefix, way[depth:])
        if "." not in key:
            below = {
                f"{name}.{found}"
                for name in FOLDERS
                if line.config.get(name)
                for found in class_options(line.config, name)
            }
            return sorted({name.partition(".")[0] for name in self.hints} | self.hints.keys() | below)
        same = [name for name in self.hints if name.startswith(f"{section}.")]
        return same or self._known_of_similar(line, section, rest)

    def _known_of_similar(self, line: CommandLine, section: str, rest: str) -> list[str]:
        """Return the candidates for a key whose section does not exist: the same key of a section of a similar name."""
        sections = {*FOLDERS, *(name.partition(".")[0] for name in self.hints if "." in name)}
        found = []
        for similar in nearest(section, sections):
            key = f"{similar}.{rest}"
            found += [key] if (known := self.known(line, key)) is None else [n for n in known if n != similar]
        return found or sorted(self.hints)

    def _inside(self, prefix: str, rest: list[str]) -> list[str] | None:
        """Return the keys of a group of options if the rest of the key is none of them."""
        inside = [name for name in self.hints if name.startswith(f"{prefix}.")]
        return inside if rest and inside else None

    def _known_of_class(self, line: CommandLine, section: str, rest: str) -> list[str] | None:
        found = class_options(line.config, section)
        name, _, below = rest.removeprefix("init_args.").partition(".")
        if name in ("help", "class_path", "init_args", "dict_kwargs"):
            return None
        if name in found:
            return _below(found[name].hint, f"{section}.{name}", below.split(".") if below else [])
        return [f"{section}.{known}" for known in found]

    def hint(self, line: CommandLine, key: str) -> Any:
        """Return the type of an option, or None if it is unknown."""
        section, _, rest = key.partition(".")
        if section in FOLDERS and rest:
            name, _, below = rest.removeprefix("init_args.").partition(".")
            option = class_options(line.config, section).get(name)
            return _hint_below(option.hint, below) if option else None
        if self.hints.get(key.rstrip("+")) is not None:
            return self.hints[key.rstrip("+")]
        group, _, name = key.rpartition(".")
        return _hint_below(self.hints.get(group), name)

    def is_group(self, key: str) -> bool:
        """Return whether a key is a group of options without a value of its own."""
        return self.hints.get(key) is None and any(name.startswith(f"{key}.") for name in self.hints)


def _hint_below(hint: Any, name: str) -> Any:
    """Return the type of a field of a dataclass (or of the dataclass in a union); without a name the type itself."""
    if not name:
        return hint
    kinds = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
    return get_type_hints(kinds[0]).get(name) if kinds else None


def _below(hint: Any, key: str, rest: list[str]) -> list[str] | None:
    """Return the fields of a dataclass option if the rest of the key is none of them, or None if it is valid."""
    if not rest:
        return None
    for kind in (hint, *get_args(hint)):
        if is_dataclass(kind):
            names = [each.name for each in fields(kind)]
            return None if rest[0] in names else [f"{key}.{name}" for name in names]
    plain = {int, float, bool, str, type(None)}
    return [key] if set(get_args(hint) or (hint,)) <= plain else None  # other types may be classes, with options


def class_options(config: Config, section: str) -> dict[str, Option]:
    """Return the options of the class that a section of a configuration names.

    Raises:
        ValueError: If it names none, or there is no such class.
    """
    path = lookup(config, f"{section}.class_path")
    if not path:
        example = {"optimizer": "--optimizer loko", "data": "--config task/digits"}[section]
        raise ValueError(f"--{section}: none given; choose one, for example {example}")
    return options(section, find_class(section, str(path)))


def leaves(config: Config, schema: Schema, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return the options of a merged configuration with their values, by dotted key."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        hint = schema.hints.get(key)
        below = schema.is_group(key) or key in FOLDERS or any(is_dataclass(kind) for kind in (hint, *get_args(hint)))
        if isinstance(value, dict) and below:
            yield from leaves(value, schema, f"{key}.")
        elif isinstance(value, dict) and name == "init_args" and prefix.rstrip(".") in FOLDERS:
            yield from ((f"{prefix}{option}", given) for option, given in value.items())
        elif name != "class_path" or prefix.rstrip(".") not in FOLDERS:
            yield key, value


def check(line: CommandLine, schema: Schema) -> None:
    """Check that every option exists and that the required options of each class are given.

    Raises:
        ValueError: Naming the first that does not, with similar names.
    """
    help_of = f"see filtune {schema.command} --help"
    sections = {name.partition(".")[0] for name in schema.hints} | {*FOLDERS, "model", "trainer"}
    sections -= {"config", "help", "print_config"}  # of the command line alone
    for key in line.config:
        if key not in sections and key.partition(".")[0] in sections:
            section, _, name = key.partition(".")
            raise ValueError(f"{key}: no such option{origin(line, key)}; write {section}: {{{name}: ...}}")
        if key not in sections:
            raise ValueError(f"{key}: no such option{origin(line, key)}; {suggest(key, sections, help_of)}")
    for section in FOLDERS:
        if isinstance(line.config.get(section) or {}, dict):
            class_options(line.config, section)
    for option in line.options:
        if schema.is_group(option.key) and not re.match(r"\s*\{", option.value or "") and not _is_file(option.value):
            raise ValueError(f"--{option.key}: is a group of options; {_first_below(schema, option.key)}")
        known = schema.known(line, option.key)
        if known is not None:
            raise ValueError(f"--{option.key}: no such option; {_suggest(option.key, known, help_of, '--')}")
    for key, value in leaves(line.config, schema):
        if (schema.is_group(key) or key in FOLDERS) and value is not None:
            raise ValueError(f"{key}: is a group of options{origin(line, key)}; {_first_below(schema, key)}")
        known = schema.known(line, key)
        if known is not None:
            raise ValueError(f"{key}: no such option{origin(line, key)}; {_suggest(key, known, help_of)}")
        if value is None and not _takes_null(schema, line, key):
            raise ValueError(f"{key}: has no value{origin(line, key)}; give one, or leave it out for the default")
    given = {option.key for option in line.options}
    for section in FOLDERS:
        if not line.config.get(section):
            continue
        inside = lookup(line.config, f"{section}.init_args") or {}
        for name, option in class_options(line.config, section).items():
            if option.required and name not in inside and f"{section}.{name}" not in given:
                what = option.help.partition(" (required")[0].partition(". ")[0].rstrip(".")
                raise ValueError(f"--{section}.{name}: required: {what}")


def _takes_null(schema: Schema, line: CommandLine, key: str) -> bool:
    """Return whether an option may be null, which the parser accepts for every type."""
    hint = schema.hint(line, key)
    return not schema.is_group(key) and (hint in (None, Any, type(None)) or type(None) in get_args(hint))


def _is_file(name: str | None) -> bool:
    return bool(name) and Path(str(name)).is_file()


def _first_below(schema: Schema, key: str) -> str:
    examples = {"optimizer": "optimizer.lr", "data": "data.max_samples", "model": "model.backbone.name"}
    first = next((name for name in schema.hints if name.startswith(f"{key}.") and schema.hints[name]), key)
    return f"set one, for example {examples.get(key, first)}"


def _suggest(key: str, known: list[str], help_of: str, dashes: str = "") -> str:
    """Return a phrase that suggests similar names; names of the same group are compared by their last part."""
    place, _, name = key.rpartition(".")
    beside = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == place}
    near = [beside[found] for found in nearest(name, beside)] if beside else nearest(key, known)
    near = near or [other for other in known if other.endswith(f".{name}")]
    meant = did_you_mean(f"{dashes}{found}" for found in near)
    return meant or (suggest(name, beside, help_of) if beside else help_of)


def origin(line: CommandLine, key: str) -> str:
    """Return the file that sets an option of the merged configuration, in brackets."""
    missing = object()
    for part in reversed(line.parts):
        content = nested(copy.deepcopy(read_part(part)[0]))
        if key in content or lookup(content, key, missing) is not missing:
            return f" (in {part})"
    return ""


def written(line: CommandLine, key: str) -> str:
    """Return an option as its user wrote it: ``--optimizer.lr``, or ``optimizer.lr (in own.yaml)``."""
    return f"--{key}" if any(option.key == key for option in line.options) else f"{key}{origin(line, key)}"


def explain(error: Exception, line: CommandLine, schema: Schema) -> str:
    """Return the error of a parser in one line: each option is parsed alone, and the first that fails is named.

    Args:
        error: The error of the parser.
        line: The command line it was given.
        schema: The keys that there are.
    """
    if found := explain_class(str(error)):
        return found
    said = [(f"--{option.key}", option.key, option.value, True, "") for option in line.options]
    said += [(key, key, value, False, origin(line, key)) for key, value in leaves(line.config, schema)]
    for label, key, value, text, place in said:
        hint = schema.hint(line, key)
        if hint is not None and value is not None and (failure := _refusal(hint, value, text)):
            return f"{label}: {_innermost(failure, hint, value)}{place}"
    return condensed(str(error))


def take_texts(line: CommandLine, schema: Schema) -> CommandLine:
    """Return the command line with its texts in the configuration, where ``a: b`` and ``@y`` are not read as YAML."""
    config, left = copy.deepcopy(line.config), []
    for option in line.options:
        if option.value not in (None, "null") and schema.hint(line, option.key) in (str, str | None):
            assign(config, option.key, option.value)
        else:
            left.append(option)
    return replace(line, config=config, options=left)


def _refusal(hint: Any, value: Any, text: bool) -> str | None:
    """Return the error of parsing a value as a type, or None if it is valid."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=hint)
        if text:
            parser.parse_args([f"--value={value}"])
        else:
            parser.parse_object({"value": value})
    except Exception as error:  # any error: the question is only whether this option is the one that fails
        return str(error)
    return None


def _innermost(failure: str, hint: Any, value: Any) -> str:
    """Return the expectation at the innermost level that fails."""
    for path in re.findall(r"class_path '([\w.]+)'|'class_path': '([\w.]+)'", f"{failure} {value}"):
        if odd_class := _unknown_class("".join(path)):
            return odd_class
    way = [key for key in re.findall(r'Parser key "([^"]+)"', failure) if key != "value"]
    inner = re.findall(r"Expected an? (.+?)\. Got value: (.*)", failure)
    odd = re.findall(r"Option '([^']+)' is not accepted", failure)
    if odd:
        return f"{odd[-1]} is not an option"
    if way and inner:
        kind = KINDS.get({f"<class '{k.__name__}'>": k for k in KINDS}.get(inner[-1][0], object), inner[-1][0])
        return f"{'.'.join(way)} must be {kind}, got {inner[-1][1].strip()!r}"
    given, holder = re.findall(r"Given value: (.*)", failure), held_dataclass(hint)
    if way and given and holder and (kind := get_type_hints(holder).get(way[-1])):
        return f"{'.'.join(way)} must be {describe_type(kind)}, got {given[-1].strip()!r}"
    if missing := re.findall(r"the following arguments are required: (.+)", failure):
        return f"{missing[-1].strip()} is required, got {value!r}"
    return f"must be {describe_type(hint)}, got {value!r}"


def _unknown_class(path: str) -> str | None:
    """Return the error of a class path of filtune, or None if the class exists."""
    name = path.rpartition(".")[2]
    known = classes("data") | classes("optimizer")
    if path.partition(".")[0] not in ("filtune", name) or name in known or hasattr(filtune, name):
        return None
    return f"{path}: no such class; {suggest(name, known)}"


def describe_type(hint: Any) -> str:
    """Return a type in words: ``a whole number or null``."""
    if hint in KINDS:
        return KINDS[hint]
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}" if len(inside) > 1 else str(inside[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe_type(kind) for kind in inside))
    if origin in (list, tuple, set) or hint in (list, tuple, set):
        return f"a list such as '[a, b]'{_entries(origin, inside)}"
    if origin is dict or hint is dict:
        return f"a mapping such as '{{name: value}}'{_entries(origin, inside)}"
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")


def _entries(origin: Any, inside: tuple[Any, ...]) -> str:
    """Return what the entries of a list or a mapping must be, as the end of a phrase; nothing where all will do."""
    is_fixed = origin is tuple and ... not in inside
    kinds = {describe_type(kind) for kind in inside[1 if origin is dict else 0 :] if kind not in (Any, ...)}
    entry = "value" if origin is dict else "entry"
    count = f" of {len(inside)} entries" if is_fixed else ""
    return f"{count}, each {entry} {kinds.pop()}" if len(kinds) == 1 else count


def condensed(message: str) -> str:
    """Return a message of jsonargparse without its headers."""
    lines = [re.sub(r"^\s*(- )?", "", line).rstrip() for line in message.splitlines()]
    frame = ("Does not validate", "Subtypes", "Errors", "Given value", "Not a valid subclass", "Subclass types expect")
    frame += ("a class path (str)", "a dict with", "a dict without")
    lines = [line for line in lines if not re.fullmatch(r"Expected an? <class '[\w.]+'>", line)]
    kept = [re.sub(r'^Parser key "([^"]+)":', r"--\1:", line) for line in lines if line and not line.startswith(frame)]
    return " ".join(dict.fromkeys(kept)) or message
