"""Parts of a natural gradient that an option selects by name: inverse methods, damping schedules, Fisher types.

A part is a class with a ``name``. It is found wherever in this folder it is defined, so that adding one is one class,
in a file of its own or beside its kin; no list elsewhere is extended.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import ClassVar

from typing_extensions import Self


class Part:
    """Base of the families of parts.

    Attributes:
        name: Value of the option that selects the part; classes without one are abstract.
    """

    name: ClassVar[str] = ""

    @classmethod
    def choices(cls) -> dict[str, type[Self]]:
        """Return all parts of this family by name, in the order of their definition."""
        package = importlib.import_module(__name__.rpartition(".")[0])
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
        found, waiting = {}, [cls]
        while waiting:
            part = waiting.pop(0)
            waiting = part.__subclasses__() + waiting
            if part.name:
                found[part.name] = part
        return found

    @classmethod
    def find(cls, optimizer: str, option: str, name: str) -> type[Self]:
        """Return the part of this name.

        Args:
            optimizer: Name of the optimizer, for the message.
            option: Name of the option, for the message.
            name: Its value.

        Raises:
            ValueError: If there is none of this name.
        """
        choices = cls.choices()
        if name not in choices:
            raise ValueError(f"{optimizer}: {option} must be one of {', '.join(choices)}; got {name!r}")
        return choices[name]
