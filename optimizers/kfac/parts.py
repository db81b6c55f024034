"""Parts of a natural gradient that an option selects by name: inverse methods, damping schedules, Fisher types.

A part is a class with a ``name``, and registers itself. Adding one is one class, in a file of its own in this folder
or beside its kin; no list elsewhere is extended.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, ClassVar

from typing_extensions import Self


class Part:
    """Base of the families of parts.

    A direct subclass is a family with a registry of its own; a further subclass is registered if it sets ``name``.

    Attributes:
        kind: Name of the option that selects a part of the family.
        name: Value of the option that selects the part.
        registry: All parts of the family, by name.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    registry: ClassVar[dict[str, type[Any]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Part in cls.__bases__:
            cls.registry = {}
        if "name" in vars(cls):
            cls.registry[cls.name] = cls

    @classmethod
    def find(cls, optimizer: str, name: str) -> type[Self]:
        """Return the part of this name.

        Args:
            optimizer: Name of the optimizer, for the message.
            name: Value of the option.

        Raises:
            ValueError: If there is none of this name.
        """
        package = importlib.import_module(__name__.rpartition(".")[0])
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
        if name not in cls.registry:
            raise ValueError(f"{optimizer}: {cls.kind} must be one of {', '.join(cls.registry)}; got {name!r}")
        return cls.registry[name]
