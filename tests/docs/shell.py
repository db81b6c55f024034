"""Shell commands and Python blocks of the pages, and a folder in which they run at a tiny scale, in this process."""

from __future__ import annotations

import contextlib
import glob
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from filtune.optimizers.likelihoods.base import REGISTRY
from PIL import Image

from filtune import cli
from tests.cli.harness import forked_workers
from tests.docs.pages import DOCS, PAGES, markdown, name, prose

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("filtune", "pip", "pytest", "make", "python", "tensorboard", "torchrun")
INDENTED = re.compile(rf"^    (?=(?:{'|'.join(PROGRAMS)}) )((?:.*\\\n)*.*)", re.MULTILINE)
ASSIGNMENT = re.compile(r"[A-Z_]+=")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str


class Command(NamedTuple):
    """A command of a page: the variables set before it, and its words; no words where variables alone are set."""

    page: Path
    variables: tuple[str, ...]
    words: tuple[str, ...]
    language: str = "bash"

    def __str__(self) -> str:
        return " ".join([*self.variables, *self.words])


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(page, *found) for found in FENCE.findall(markdown(page))]


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of a page's shell blocks and indented blocks, in their order."""
    texts = [(block.text, block.language) for block in blocks(page) if block.language in ("bash", "sh")]
    texts += [(text, "bash") for text in INDENTED.findall(FENCE.sub("", markdown(page)))]
    for text, language in texts:
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                words = words[: next((i for i, word in enumerate(words) if word in ("&", "|", ">")), None)]
                variables = [word for word in words if ASSIGNMENT.match(word)]
                if words:
                    yield Command(page, tuple(variables), tuple(words[len(variables) :]), language)


def arguments(page: Path) -> list[list[str]]:
    """Return the arguments of the ``filtune`` commands of a page, those within its text as well."""
    found = [list(command.words) for command in commands(page)]
    lines = [words[1:] for words in found if words[:1] == ["filtune"]]
    lines += [words[words.index("cli") + 1 :] for words in found if words[:1] == ["torchrun"]]
    texts = re.findall(r"`filtune ([a-z][^`\n|&]*)`", prose(page))
    return lines + [words for text in texts if "..." not in text and len(words := shlex.split(text)) > 1]


FAST = {"README.md", "docs/getting_started.md"}
"""Pages whose commands run in the default suite, with those of the optimizers."""


def is_fast(page: Path) -> bool:
    """Return whether the commands of a page run in the default suite."""
    return name(page) in FAST or page.parent == DOCS / "optimizers"


ALL = [command for page in PAGES for command in commands(page)]

TEXTS = ["good film", "a bad plot and a dull actor", "great story", "poor film"] * 5
SHORT = ["--data.max_samples=12", "--data.max_val_samples=8", "--trainer.enable_progress_bar=false"]
TINY_NETWORK = [
    "--model.backbone.name=test_resnet",
    "--model.backbone.pretrained=false",
    "--model.backbone.image_size=32",
]
TINY_CIFAR10 = "{{source: {}, name: plain_text, val_split: test, image_column: img}}"


class Scene:
    """A folder with the files that the pages name, where their commands run one after the other.

    Args:
        folder: The folder, the current one while a command runs.
        encoder: Folder of a tiny language model, named as the one that the pages download.
        data: Folder of small parts of the public data sets.
    """

    def __init__(self, folder: Path, encoder: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.encoder, self.data = folder, encoder, data
        self.variables: dict[str, str] = {}
        columns = {
            "reviews.csv": ("review,stars", ["good", "bad", "good", "bad"]),
            "new.csv": ("review,number", ["1", "2", "3", "4"]),
            "emails.csv": ("text,topics", ["plot;film", "plot", "film", ""]),
            "visits.csv": ("text,label", ["0", "2", "1", "5"]),
        }
        for file, (header, values) in columns.items():
            rows = [f"{text},{values[i % 4]}" for i, text in enumerate(TEXTS)]
            (folder / file).write_text("\n".join([header, *rows]) + "\n")
        for i in range(24):
            image = folder / "photos" / ("cat", "dog")[i % 2] / f"{i}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 32), (10 * i, 100, 200)).save(image)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    @contextlib.contextmanager
    def own_modules(self, page: Path) -> Iterator[None]:
        """Write the page's Python into the files that its first lines name; a part of filtune is imported as it is."""
        with patch.dict(REGISTRY):
            for block in blocks(page):
                if file := re.match(r"# ([\w/]+)\.py\n", block.text):
                    if "/" in file[1]:
                        exec(block.text, {"__name__": f"filtune.{file[1].replace('/', '.')}"})
                    else:
                        (self.folder / f"{file[1]}.py").write_text(block.text)
                        sys.modules.pop(file[1], None)
            yield

    def make_run(self) -> None:
        """Train on the texts, and put the run where the pages say RUN."""
        names = ["trainer/cpu", "task/own_text", "backbone/minilm", "optimizer/filtune"]
        options = ["--data.source=reviews.csv", "--data.text_columns=[review]", "--data.label_column=stars"]
        self.filtune(["fit", *(word for name in names for word in ("--config", name)), *options])
        (run,) = self.folder.glob("runs/*/*/version_0")
        shutil.copytree(run, self.folder / "RUN")

    def run(self, command: Command) -> None:
        """Run a command of filtune, or set its variables."""
        given = dict(word.split("=", 1) for word in command.variables)
        if not command.words:
            self.variables |= given
            return
        assert command.words[0] == "filtune", f"{command}: not run; give a reason"
        words = [re.sub(r"\$(\w+)", lambda found: self.variables[found[1]], word) for word in command.words[1:]]
        self.filtune([path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])])

    def filtune(self, words: list[str]) -> None:
        """Run ``filtune`` with some words, at a tiny scale; a fit must leave a result more."""
        before = set(self.folder.rglob("summary.json"))
        with forked_workers():
            cli.main([*words, *self._smaller(words)])
        if words[0] == "fit" and "--trainer.fast_dev_run" not in words and "last" not in words:
            assert set(self.folder.rglob("summary.json")) - before

    def _smaller(self, words: list[str]) -> list[str]:
        """Return the options that make a command small and take it off the network."""
        if words[0] == "reproduce" and len(words) > 1 and "--dry-run" not in words:
            local = {"nyu-mll/glue": self.data / "nyu-mll/glue", "sentence-transformers/all-MiniLM-L6-v2": self.encoder}
            scale = ["--max-samples", "8", "--set", "data.max_val_samples=8", "--seeds", "1", "--jobs", "1"]
            cells = ["--cells", "loko/sst2*"]
            return [*scale, *cells, *(word for key, path in local.items() for word in ("--local", f"{key}={path}"))]
        if words[0] not in ("fit", "sweep"):
            return []
        options = [*SHORT, *(["--seeds=1"] if words[0] == "sweep" else [])]
        if "backbone/minilm" in words:
            options += [f"--model.backbone.name={self.encoder}"]
        if {"backbone/resnet18", "backbone/efficientnet_lite0"} & set(words):
            options += TINY_NETWORK
        if "task/sst2" in words:
            options += [f"--data.source={self.data / 'nyu-mll/glue'}"]
        if "task/changing_classes" in words:
            images = TINY_CIFAR10.format(self.data / "uoft-cs/cifar10")
            options += [f"--data.streams=[{{class_path: filtune.ImageDataModule, init_args: {images}}}]"]
        return options
