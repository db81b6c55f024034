"""Subclasses of ``torch.optim.Optimizer`` by name: which may be imported, and the arguments that they take.

A name is text of a configuration, and importing a module runs it. Classes of :data:`PACKAGES` are imported for any
configuration; one of another package only where the user has named it (:func:`allow_rules`).
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, get_args

import torch

from filtune.suggestions import did_you_mean, nearest

from .base import OnlineOptimizer
from .parts import constructor_parameters

PACKAGES = ("torch.optim", "pytorch_optimizer", "ivon")
"""Modules whose optimizers may be named by any configuration."""

INSTALL = "pip install 'filtune[baselines]'"
"""Command that installs the optional ones among them."""

_KINDS: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "text"}

_allowed: set[str] = set()


def allow_rules(names: Iterable[str]) -> None:
    """Let classes of other packages be imported by :func:`import_rule`, in this process.

    Args:
        names: Their class paths, which the user has named: never those of a file that may be a stranger's.
    """
    _allowed.update(names)


def import_rule(name: str) -> type[torch.optim.Optimizer]:
    """Return an optimizer class by its class path, such as ``torch.optim.NAdam``.

    Raises:
        ValueError: If it may not be imported, is not installed, or is no subclass of ``torch.optim.Optimizer``.
    """
    package, _, cls = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    if not package or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(
            f"TorchOptimizer: name must be a class path such as torch.optim.NAdam, pytorch_optimizer.SOAP; got {name!r}"
        )
    if package not in PACKAGES and name not in _allowed:
        raise ValueError(
            f"TorchOptimizer: name: {name} is not of {', '.join(PACKAGES)}, and nothing else is imported unless you "
            f"name it yourself: in a configuration of fit, or by --own_class {name}"
        )
    module = _import(package, name)
    found = getattr(module, cls, None)
    if not _is_rule(found):
        what = "is not a subclass of torch.optim.Optimizer" if hasattr(module, cls) else f"{package} has no class {cls}"
        rules = [key for key in dir(module) if _is_rule(getattr(module, key))]
        meant = did_you_mean(f"{package}.{key}" for key in nearest(cls, rules))
        raise ValueError(f"TorchOptimizer: name: {name}: {'; '.join(filter(None, (what, meant)))}")
    return found  # type: ignore[return-value]


def check_rule_arguments(name: str, cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a class with lists as tuples, as its constructor has them.

    Many classes take ``**kwargs`` and ignore what they do not know: an argument must be in the signature.

    Args:
        name: The class path, for messages.
        cls: The class.
        arguments: What is to be given to its constructor besides the parameters.

    Raises:
        ValueError: Naming an argument that it does not have, that it needs, or whose value is of another type.
    """
    first = next(iter(constructor_parameters(cls)), "")
    if first != "params":
        raise ValueError(f"TorchOptimizer: name: {name} is built from {first or 'nothing'}, not from parameters alone")
    known = _parameters(cls)
    for key in arguments:
        if key not in known:
            has = " ".join(filter(None, (did_you_mean(nearest(str(key), known)), f"it has {', '.join(known)}")))
            raise ValueError(f"TorchOptimizer: arguments: {name} has no argument {key!r}; {has}")
    for key in required_arguments(cls):
        if key not in arguments:
            raise ValueError(f"TorchOptimizer: arguments: {name} needs {key}; set --optimizer.arguments.{key}")
    return {key: _checked(f"arguments.{key}", value, known[key]) for key, value in arguments.items()}


def checked_group(cls: type, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter group whose own options of a class are of the types that its constructor takes.

    Raises:
        ValueError: Naming an option that is not.
    """
    known = _parameters(cls)
    return {
        key: _checked(f"{key} of a group", found, known[key]) if key in known else found for key, found in group.items()
    }


def required_arguments(cls: type) -> list[str]:
    """Return the arguments of a class that have no default, besides the parameters."""
    return [key for key, parameter in _parameters(cls).items() if parameter.default is parameter.empty]


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class besides the parameters; ``defaults`` is that of torch's base class."""
    return {key: found for key, found in constructor_parameters(cls).items() if key not in ("params", "defaults")}


def _checked(label: str, value: Any, parameter: inspect.Parameter) -> Any:
    """Return the value of an argument if it is of the type of its default, or of its annotation where it has none.

    Raises:
        ValueError: If it is not.
    """
    default = parameter.default
    if default is parameter.empty or default is None:
        kinds = set(get_args(parameter.annotation) or (parameter.annotation,)) - {torch.Tensor}
        if value is None or not kinds <= {*_KINDS, type(None)}:
            return tuple(value) if isinstance(value, list) else value
        expected = kinds - {type(None)}
    elif isinstance(default, (tuple, list)):
        numbers = isinstance(value, (tuple, list)) and all(_is_a(item, {float}) for item in value)
        if not numbers or len(value) != len(default):
            raise _refusal(label, f"a list of {len(default)} numbers", value)
        return tuple(value)
    else:
        expected = {type(default)}
    if parameter.annotation is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise _refusal(label, "a whole number", value)
    if expected <= _KINDS.keys() and not _is_a(value, expected):
        raise _refusal(label, " or ".join(sorted({_KINDS[kind] for kind in expected})), value)
    if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and default != value)):
        raise _refusal(label, "finite", value)
    return value


def _is_a(value: Any, kinds: set[type]) -> bool:
    """Return whether a value is of one of these types; a whole number is a number, and a truth value is none."""
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(kinds - {bool}) + ((int, float) if kinds & {int, float} else ()))


def _refusal(label: str, requirement: str, value: Any) -> ValueError:
    return ValueError(f"TorchOptimizer: {label} must be {requirement}; got {value!r}")


def _import(package: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = error.name or package
        remedy = INSTALL if missing in PACKAGES else f"install {missing}"
        raise ValueError(f"TorchOptimizer: name: {name} needs {missing}, which is not installed: {remedy}") from error
    except Exception as error:  # a module may raise anything when it is imported
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"TorchOptimizer: name: {name} cannot be imported ({reason})") from error


def _is_rule(found: Any) -> bool:
    is_class = inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)
    return is_class and found is not torch.optim.Optimizer and not issubclass(found, OnlineOptimizer)
