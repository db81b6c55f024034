"""Every command and block of Python of the README and the docs runs at a tiny scale, or is parsed for a reason."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed.run
from filtune.optimizers.likelihoods.base import REGISTRY
from tensorboard.plugins.core.core_plugin import CorePluginLoader

from filtune import Filtune, Gaussian
from tests.conftest import _shared
from tests.docs.pages import PAGES, ROOT, name
from tests.docs.shell import ALL, PROGRAMS, Block, Command, Scene, blocks, commands, is_fast
from tests.docs.test_commands import Understood

LANGUAGES = {  # sh: scripts with a service
    "bash",
    "sh",
    "python",
    "yaml",
    "text",
    "math",
}

PARSED_ONLY = {
    ("", r"pip install "): "changes the environment; .ci/run installs the package in a fresh one",
    ("", r"(pytest|make) ?"): "runs this suite or what .ci/run runs",
    ("", r"tensorboard "): "a server that does not end",
    ("", r"torchrun |.*trainer/ddp_cpu"): "several processes; tests/cli/test_ranks.py has them",
    (
        "",
        r"python -m (benchmarks|tests\.endurance)",
    ): "measurements of minutes to hours; tests/benchmarks has small ones",
    ("", r"filtune export .*--push"): "writes to the hub; tests/exports/test_push.py has a stub of it",
    (
        "",
        r"filtune reproduce .*--launcher slurm",
    ): "needs a cluster; tests/experiments/test_launchers.py stands in for one",
    (
        "",
        r"filtune (reproduce|report --study) win_changing",
    ): "a study of hours; tests/reports/test_study.py has a small one",
    (
        "",
        r"filtune learn .*--follow",
    ): "follows a file without an end; tests/live/test_json_lines.py runs such a service",
    (r"docs/results", r"filtune (reproduce|report) "): "the records of the results took days",
}
"""By patterns of the page and of the command, why commands are parsed and not run."""

OF_A_SERVICE = "a script with a service; tests/live/test_serve_page.py runs it"
"""Why a block in the language ``sh`` is parsed only."""


def reason(command: Command) -> str | None:
    """Return why a command is parsed only, if it is."""
    if command.language == "sh":
        return OF_A_SERVICE
    for (page, pattern), why in PARSED_ONLY.items():
        if re.match(page, name(command.page)) and re.match(pattern, str(command)):
            return why
    return None


def to_run(page: Path) -> list[Command]:
    """Return the commands of a page that run; in the default suite, without those that an earlier page has."""
    before = PAGES[: PAGES.index(page)] if is_fast(page) else []
    earlier = {str(command) for other in before if is_fast(other) for command in commands(other)}
    return [command for command in commands(page) if not reason(command) and str(command) not in earlier]


RUN = [
    pytest.param(page, marks=[] if is_fast(page) else pytest.mark.slow, id=name(page)) for page in PAGES if to_run(page)
]


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model under the name of the one that the pages take."""
    return Path(shutil.copytree(tiny_bert, tmp_path_factory.mktemp("models") / "all-MiniLM-L6-v2"))


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(page: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, in a folder with the files that the page names."""
    scene = Scene(tmp_path, encoder, _shared("data-tiny"), monkeypatch)
    found = to_run(page)
    if any("RUN" in command.words for command in found):
        scene.make_run()
    if any("last" in command.words for command in found):
        scene.filtune(["fit", "--config", "quickstart"])
    with scene.own_modules(page):
        for command in found:
            scene.run(command)
    for listing in listings(page):
        assert_files(listing)


def listings(page: Path) -> list[list[str]]:
    """Return the lists of files of a page: the folder, then a name at the beginning of each line."""
    texts = [block.text.splitlines() for block in blocks(page) if block.language == "text"]
    return [[line.split()[0] for line in lines] for lines in texts if lines[0].startswith("runs/")]


def assert_files(listing: list[str]) -> None:
    """Check that a folder has what a page lists and nothing else; capitals and ``...`` stand for any name."""
    folder, *names = (re.sub(r"KEY|NAME|\.\.\.", "*", name) for name in listing)
    assert all(list(Path(folder).glob(name)) for name in names), listing
    known = {path for name in names for path in Path(folder).glob(name.partition("/")[0])}
    assert not [path for path in Path(folder).glob("[!.]*") if path not in known]


def test_nothing_is_skipped() -> None:
    """A command that is not run has a reason, and every reason has a command."""
    assert len(ALL) > 90
    reasons = [reason(command) for command in ALL]
    assert {*PARSED_ONLY.values(), OF_A_SERVICE} == {why for why in reasons if why}
    assert {command.language for command in ALL if command.words and command.words[0] not in PROGRAMS} <= {"sh"}
    run = {str(command) for parameter in RUN for command in to_run(parameter.values[0])}
    assert {str(command) for command in ALL if not reason(command)} == run
    assert len(run) > 40
    fits = [command for command in ALL if "fit" in command.words and command.language == "bash"]
    assert not [command for command in fits if is_fast(command.page) and reason(command)]


OTHER_PROGRAMS = [command for command in ALL if command.words and command.words[0] in PROGRAMS[1:] and reason(command)]


@pytest.mark.parametrize("command", OTHER_PROGRAMS, ids=lambda command: str(command)[:60])
def test_other_programs_are_parsed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the parser of the program, to the last word; those of filtune are in test_commands."""
    program, *words = command.words
    if program == "pip":
        check_pip(words)
    elif program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif program == "python":
        check_module(words, monkeypatch)
    elif program == "tensorboard":
        parser = argparse.ArgumentParser()
        CorePluginLoader().define_flags(parser)
        parser.parse_args(words)
    elif program == "torchrun":
        given = torch.distributed.run.parse_args(words)
        assert (given.module, given.training_script) == (True, "cli")
    else:
        assert [program, *words] == ["pytest"]


def check_pip(words: list[str]) -> None:
    """Check that a package is that of this folder or its name, with an extra that exists."""
    *options, target = words
    found = re.fullmatch(r"(\.|filtune)(?:\[(\w+)\])?", target)
    assert found, target
    assert options == (["install", "-e"] if found[1] == "." else ["install"])
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert found[2] is None or re.search(rf"^{found[2]} = \[", extras, flags=re.MULTILINE)


def check_module(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse the options of ``python -m MODULE``; capitals stand for values of the reader."""
    assert words[0] == "-m"
    parse = argparse.ArgumentParser.parse_known_args

    def stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        _, rest = parse(parser, *args, **kwargs)
        assert not rest
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    examples = {"MODEL": "lenet5", "M": "10", "T": "1"}
    monkeypatch.setattr(sys, "argv", [words[1], *(examples.get(word, word) for word in words[2:])])
    name = words[1] if (ROOT / f"{words[1].replace('.', '/')}.py").exists() else f"{words[1]}.__main__"
    with pytest.raises(Understood):
        import_module(name).main()


def test_every_block_says_what_it_is() -> None:
    """A block without a language could be a command that nothing runs."""
    found = {(name(block.page), block.language) for page in PAGES for block in blocks(page)}
    assert not {(page, language) for page, language in found if language not in LANGUAGES}


PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{name(block.page)}-{block.text.splitlines()[0]}")
def test_a_block_of_python_runs(block: Block, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the names that its text takes for granted: a model, an optimizer, a stream, or the learner made above it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    is_regression = "Gaussian" in block.text
    model = torch.nn.Linear(4, 1 if is_regression else 3)
    targets = torch.randn(6, 1) if is_regression else torch.arange(6).view(6, 1) % 3
    scope: dict[str, Any] = {
        "__name__": "block",
        "model": model,
        "stream": list(zip(torch.randn(6, 1, 4), targets, strict=True)),
        "optimizer": Filtune(model.parameters()),
        "Gaussian": Gaussian,
        "x": "Your parcel is waiting",
    }
    page = blocks(block.page)
    texts = [each.text for each in page[: page.index(block)] if each.language == "python" and "learner" in block.text]
    code = "\n".join([*texts, block.text]).replace("sentence-transformers/all-MiniLM-L6-v2", str(encoder))
    if "from river" in code:
        pytest.importorskip("river", reason="River has no release for Python 3.10")
    before = model.weight.detach().clone()
    with patch.dict(REGISTRY):
        exec(code.replace("max_samples=200", "max_samples=8"), scope)
    assert ("in stream:" in block.text) == (not torch.equal(model.weight, before))
