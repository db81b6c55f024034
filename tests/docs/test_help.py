"""Help texts of all options are sentences, and the lists of classes are shown whole at 80 columns."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import docstring_parser
import pytest
from filtune.datamodules.segments import Segment
from filtune.experiments.classes import classes, options
from filtune.lightning_modules.backbones.base import BackboneConfig
from filtune.lightning_modules.online import OnlineModule
from filtune.lightning_modules.optimization import Schedule
from filtune.lightning_modules.runs import RunConfig

from filtune import option_help

SECTIONS = ("optimizer", "data")
PARTS = (BackboneConfig, OnlineModule, RunConfig, Schedule, Segment)


def documented() -> Iterator[tuple[str, str]]:
    """Yield the options of all optimizers and data modules, and of the model and the run, with their help texts."""
    for section in SECTIONS:
        for name, cls in classes(section).items():
            for option in options(section, cls).values():
                yield f"{name}.{option.name}", re.sub(r"\s*\((required, )?type: .*\)$", "", option.help)
    for cls in PARTS:
        texts = {found.arg_name: found.description or "" for found in docstring_parser.parse(cls.__doc__).params}
        for argument in set(inspect.signature(cls).parameters):
            yield f"{cls.__name__}.{argument}", texts.get(argument, "")


def test_every_option_is_explained_in_sentences() -> None:
    found = dict(documented())
    assert len(found) > 200
    clause = re.compile(r"(what|whether|how|which|where)\b", re.IGNORECASE)
    wrong = {
        name: text for name, text in found.items() if len(text.split()) < 4 or text[-1] != "." or clause.match(text)
    }
    assert not wrong


@pytest.mark.parametrize("section", SECTIONS)
def test_summaries_are_shown_whole(
    section: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 80 columns nothing is cut, and no markup of the source is left."""
    monkeypatch.setenv("COLUMNS", "80")
    for name in (None, *classes(section)):
        option_help.show("fit", section, name)
    printed = capsys.readouterr().out
    assert " ..." not in printed
    assert not re.search(r":\w+:`|``", printed)
