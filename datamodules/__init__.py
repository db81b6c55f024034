"""Sources of samples: streams of texts and images, one sample at a time, resumable to the sample.

Every data module in a file of this folder is a public name: adding one is adding its file.
"""

from importlib import import_module
from pkgutil import iter_modules

from .base import StreamDataModule
from .loader import StreamLoader
from .samples import DataError
from .segments import Segment
from .task import Task


def data_modules() -> dict[str, type[StreamDataModule]]:
    """Return the data modules that the files of this folder define, by name."""
    modules = [import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__)]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, StreamDataModule) and value.__module__ == module.__name__
    }


_FOUND = data_modules()
globals().update(_FOUND)

__all__ = ["DataError", "Segment", "StreamLoader", "Task", "data_modules", *_FOUND]
