"""Errors of the parser about a class that an option of the trainer names: a logger, callback, profiler or plugin."""

from __future__ import annotations

import re

from lightning.pytorch import accelerators, callbacks, loggers, plugins, profilers, strategies

from filtune.lightning_modules.defaults import constructor_arguments, import_class

from .suggestions import suggest

PLACES = {
    "trainer.accelerator": accelerators,
    "trainer.callbacks": callbacks,
    "trainer.logger": loggers,
    "trainer.plugins": plugins,
    "trainer.profiler": profilers,
    "trainer.strategy": strategies,
}
"""Options of the trainer that take a class, and where Lightning's own are."""


def explain_class(message: str) -> str | None:
    """Return in one line what is wrong with a class of the trainer or one of its options.

    Args:
        message: The parser's message.

    Returns:
        The line; None where the message is about something else.
    """
    key = re.search(r'Parser key "(trainer\.\w+)"', message)
    if key is None or key[1] not in PLACES:
        return None
    option = f"--{key[1]}"
    if odd := re.search(r"class_path '([\w.]+)':\s+Option '([^']+)' is not accepted", message):
        return f"{option}: {_short(odd[1])} has no option {odd[2]}; {suggest(odd[2], _options(odd[1]))}"
    if missing := re.search(r"class_path '([\w.]+)':\s+the following arguments are required: ([\w.]+)", message):
        return f"{option}: {_short(missing[1])} needs {missing[2]}; set {option}.{missing[2]}"
    value = r"class_path '([\w.]+)':\s+Parser key \"([\w.]+)\":[\s\S]*?Expected an? (.+?)\. Got value: (.*)"
    if wrong := re.search(value, message):
        kind = re.sub(r"<class '(.*)'>", r"\1", wrong[3])
        return f"{option}: {wrong[2]} of {_short(wrong[1])} must be {kind}, got {wrong[4].strip()!r}"
    if unknown := re.search(r"Expected a dot import path string: (\S+)", message):
        return f"{option}: {unknown[1]}: no such class; {suggest(unknown[1], PLACES[key[1]].__all__)}"
    return None


def _short(path: str) -> str:
    return path.rpartition(".")[2]


def _options(path: str) -> list[str]:
    return sorted(constructor_arguments(import_class(path)))
