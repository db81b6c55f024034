"""Sources of ``filtune learn`` and where its answers go: one scheme per file, found when this is imported."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from .base import (
    AnswerOutput,
    RawSample,
    SampleSource,
    SourceOptions,
    TextFields,
    is_file_address,
    open_output,
    open_source,
)

for _module in pkgutil.iter_modules(__path__):
    import_module(f".{_module.name}", __name__)

__all__ = [
    "AnswerOutput",
    "RawSample",
    "SampleSource",
    "SourceOptions",
    "TextFields",
    "is_file_address",
    "open_output",
    "open_source",
]
