"""Every command and option of the README and the docs is understood by the parser; test_journeys runs them."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from filtune.experiments.composition import compose, find_config

from filtune import cli, completion, datamodules, optimizers, training
from tests.docs.pages import DOCS, PAGES, name, prose
from tests.docs.shell import arguments, commands, is_fast

TRAINER = ("fit", "validate")
KNOWN = {
    "--config",
    "--ckpt_path",
    "--seed_everything",
    "--help",
    "--trainer",
    "--model",
    "--data",
    "--optimizer",
    "--run",
}

ALL = [(page, words) for page in PAGES for words in arguments(page)]
RUN = [list(command.words[1:]) for page in PAGES if is_fast(page) for command in commands(page)]
"""Commands of the pages that the default suite runs (test_journeys)."""

PARSED = [(page, words) for page, words in ALL if words[0] != "fit" or words not in RUN]


def label(given: Any) -> str:
    """What a test calls a command."""
    return name(given) if isinstance(given, Path) else " ".join(given)[:60]


class Understood(Exception):
    """A command line was parsed to its end."""


def stop(*_: Any, **__: Any) -> None:
    raise Understood


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that a command can name as RUN."""
    run = tmp_path / "RUN"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()  # named, and not read before the command is stopped
    whole = compose(["trainer/cpu", "task/digits", "backbone/lenet5", "optimizer/loko"])
    (run / "config.yaml").write_text(yaml.safe_dump(whole))
    monkeypatch.chdir(tmp_path)
    return run


@pytest.mark.parametrize(("page", "words"), PARSED, ids=label)
def test_a_command_is_understood(
    page: Path, words: list[str], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is parsed as on a command line, and stopped before it does anything."""
    assert words[0] in {**cli.COMMANDS, **cli.RENAMED}, f"there is no command {words[0]}"
    monkeypatch.setattr(training.FiltuneCLI, "instantiate_classes", stop)
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        _, rest = parse(parser, *args, **kwargs)
        if rest and words[0] != "sweep":  # whose further options are those of fit
            parser.error(f"unknown: {rest}")
        raise Understood

    if words[0] not in TRAINER:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
        for i, argument in enumerate(words[:-1]):
            if argument == "--config":
                find_config(words[i + 1])
    if any(argument.partition("=")[0].endswith("help") for argument in words):
        with contextlib.suppress(SystemExit):
            cli.main(list(words))
        return
    with pytest.raises(Understood):
        cli.main(list(words))


def test_there_are_commands_to_check() -> None:
    """One a page of an optimizer, and many more."""
    pages = {page for page in (DOCS / "optimizers").glob("*.md") if page.stem != "index"}
    assert pages <= {page for page, words in ALL if words[0] == "fit" and "task/digits" in words}
    assert len(ALL) > 110


def options(page: Path) -> list[str]:
    """Options that a page names within its text, such as `--optimizer.noise softmax`."""
    found = re.findall(r"`(--[a-z][^`\n]*)`", prose(page))
    return [word.partition("=")[0] for line in found for word in shlex.split(line) if word.startswith("--")]


def constructors(module: Any, kind: type) -> set[str]:
    """Arguments of a module's public classes of a kind, and of what they extend."""
    classes = [found for _, found in inspect.getmembers(module, inspect.isclass) if issubclass(found, kind)]
    return {argument for found in classes for base in found.__mro__ for argument in inspect.signature(base).parameters}


def helps() -> str:
    """The help texts of all commands but the trainer's."""
    return "\n".join(
        completion.parser_of(command).format_help() for name, command in cli.COMMANDS.items() if name not in TRAINER
    )


def test_options_named_in_the_text_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = trainer_parser(monkeypatch)
    of_data = constructors(datamodules, datamodules.StreamDataModule)
    of_optimizers = constructors(optimizers, optimizers.OnlineOptimizer)
    others = helps()
    for page in PAGES:
        for option in options(page):
            group, _, key = option.removeprefix("--").partition(".")
            if group == "data" and key:
                assert key in of_data, (name(page), option)
            elif group == "optimizer" and key:
                assert key.split(".")[0] in of_optimizers | {"help"}, (name(page), option)
            elif key:
                assert option.removeprefix("--") in parser, (name(page), option)
            else:
                assert option in KNOWN or re.search(rf"{option}\b", others), (name(page), option)


def trainer_parser(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every key of the composed configuration of a fit."""
    seen: set[str] = set()

    def keys(tree: Any, prefix: str = "") -> None:
        for key, found in tree.items():
            seen.add(f"{prefix}{key}")
            if isinstance(found, dict):
                keys(found, f"{prefix}{key}.")

    def look(composed: training.FiltuneCLI) -> None:
        composed._dump_config()
        keys(composed.config_dump)
        raise Understood

    monkeypatch.setattr(training.FiltuneCLI, "instantiate_classes", look)
    with pytest.raises(Understood):
        cli.main(["fit", "--config", "quickstart"])
    return seen
