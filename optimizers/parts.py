"""Named parts of an optimizer: classes that register themselves, and the options each of them has.

A covariance, an observation noise, an inverse method or a damping schedule is one class in one file. Defining the class
registers it; nothing else is edited. The options of a part are the keyword-only parameters of its constructor, which
also checks them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

State = dict[str, Tensor]
"""Tensors of a filter's state, by name."""

Spec = str | dict[str, Any]
"""Name of a part, or a mapping with its ``name`` and options: ``low_rank``, ``{name: low_rank, rank: 20}``."""


class Part:
    """A part of an optimizer that is chosen by name.

    A direct subclass is a family with a registry of its own; a further subclass is registered if it sets ``name``.

    Attributes:
        kind: What the family is called, which is also the option that chooses one of it.
        name: The part's name in its family.
        registry: All parts of the family, by name.

    Raises:
        TypeError: If two classes of a family have the same name.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    registry: ClassVar[dict[str, type[Any]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Part in cls.__bases__:
            cls.registry = {}
        if "name" in vars(cls):
            known = cls.registry.setdefault(cls.name, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"{cls.kind} {cls.name} is {known.__qualname__} already, from {known.__module__}")
            cls.registry[cls.name] = cls

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Return the part's options and their defaults: the keyword-only parameters of its constructor."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


class Choice(NamedTuple):
    """A part that was chosen, and the options it is to be built with."""

    part: type[Any]
    options: dict[str, Any]

    def build(self, *args: Any) -> Any:
        """Return the part, built."""
        return self.part(*args, **self.options)


def choose(family: Any, spec: Spec) -> Choice:
    """Return the part that a specification names.

    Args:
        family: The direct subclass of :class:`Part` to which it belongs.
        spec: Its name, or a mapping with its name and options.

    Raises:
        ValueError: If there is none of that name, or it lacks an option of the specification.
    """
    options = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in family.registry:
        raise ValueError(f"{family.kind} must be one of {', '.join(family.registry)}; got {name!r}")
    part = family.registry[name]
    for option in options:
        if option not in part.options():
            known = ", ".join(part.options()) or "none"
            raise ValueError(f"{family.kind} {name} has no option {option}; its options: {known}")
    return Choice(part, options)


def distribute(choices: Sequence[Choice], offered: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Give every option to the parts that have it.

    An option that no chosen part has must have its default value, the optimizer's or that of the parts which have it.

    Args:
        choices: The chosen parts; their options are completed in place.
        offered: Options of the optimizer that belong to parts.
        defaults: Default values of the optimizer's options.

    Raises:
        ValueError: Naming an option that no chosen part has, or one that is given twice.
    """
    for option, value in offered.items():
        is_default = option in defaults and value == defaults[option]
        takers = [choice for choice in choices if option in choice.part.options()]
        if not takers and not is_default:
            _check_unused(option, value, choices)
        for choice in takers:
            if option in choice.options and not is_default:
                raise ValueError(f"{option} is given twice: {choice.options[option]!r} and {value!r}")
            choice.options.setdefault(option, value)


def _check_unused(option: str, value: Any, choices: Sequence[Choice]) -> None:
    owners = [part for family in Part.__subclasses__() for part in family.registry.values() if option in part.options()]
    if not owners:
        raise ValueError(f"no part has an option {option}; got {value!r}")
    if any(value != owner.options()[option] for owner in owners):
        kind = owners[0].kind
        names = ", ".join(owner.name for owner in owners)
        chosen = next((choice.part.name for choice in choices if choice.part.kind == kind), "none")
        raise ValueError(f"{option} is an option of {kind} {names}, and {kind} is {chosen}; got {option} {value!r}")


def part_options(families: Iterable[type[Part]]) -> set[str]:
    """Return the names of the options of all parts of some families."""
    return {option for family in families for part in family.registry.values() for option in part.options()}


def default_arguments(cls: type) -> dict[str, Any]:
    """Return the defaults of a constructor's arguments, those of base classes where a subclass does not name them."""
    found = constructor_parameters(cls, all_bases=True)
    return {name: parameter.default for name, parameter in found.items() if parameter.default is not parameter.empty}


def constructor_parameters(cls: type, all_bases: bool = False) -> dict[str, inspect.Parameter]:
    """Return the named parameters of a class's constructor, with their annotations as types where these can be had.

    Args:
        cls: The class.
        all_bases: Include those of the constructors of all bases. By default a base is asked where ``**kwargs`` of the
            constructor before it in the order of inheritance passes arguments on.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__[:-1]:
        if (init := vars(base).get("__init__")) is None:
            continue
        try:
            signature = inspect.signature(init, eval_str=True)
        except Exception:  # of a user's class: an annotation that exists for type checkers alone
            signature = inspect.signature(init)
        parameters = list(signature.parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, parameter)
        if not all_bases and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found
