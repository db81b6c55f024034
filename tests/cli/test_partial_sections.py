"""A file that says a part of a section merges with the files before and after it, and keeps the class they name."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from filtune import cli
from filtune.lightning_cli import FiltuneCLI

PARTIAL = {
    "data: {max_samples: 20}": ("data.init_args.max_samples", 20),
    "data: {init_args: {max_samples: 20}}": ("data.init_args.max_samples", 20),
    "optimizer: {p0: 0.01}": ("optimizer.init_args.p0", 0.01),
    "optimizer: {class_path: LoKO, p0: 0.01}": ("optimizer.init_args.p0", 0.01),
    "model: {on_divergence: warn}": ("model.on_divergence", "warn"),
    "model: {backbone: {pretrained: false}}": ("model.backbone.pretrained", False),
    "trainer: {max_epochs: 2}": ("trainer.max_epochs", 2),
    "run: {save_interval: 7}": ("run.save_interval", 7),
    "seed_everything: 5": ("seed_everything", 5),
    "model: {schedule: }": ("model.schedule", None),
    "optimizer: {init_args: }": ("optimizer.init_args.p0", 0.2),
    "trainer: {max_epochs: }": ("trainer.max_epochs", None),
    "data:\noptimizer:\nmodel:\ntrainer:\nrun:": ("model.backbone.name", "lenet5"),
}
BASE = ("task/digits", "optimizer/loko", "backbone/lenet5")


class Parsed(Exception):
    """The command line up to here."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own; the command line ends where it is parsed."""

    def stop(own: FiltuneCLI) -> None:
        raise Parsed(own.config["fit"])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FiltuneCLI, "instantiate_classes", stop)


def parsed(*args: str) -> Any:
    """The configuration of a command line."""
    with pytest.raises(Parsed) as end:
        cli.main(["fit", *args])
    return end.value.args[0]


@pytest.mark.parametrize("content", PARTIAL)
def test_a_part_of_a_section_merges_wherever_its_file_stands(content: str) -> None:
    key, value = PARTIAL[content]
    Path("part.yaml").write_text(content)
    first = 2 if "class_path" in content else 0  # a shipped file of the same class replaces what was said of it before
    for place in (first, len(BASE)):  # before the file of its own section, and after it
        files = [*BASE[:place], "part.yaml", *BASE[place:]]
        config = parsed(*(word for name in files for word in ("--config", name)))
        assert config[key] == value, files
        assert config.data.class_path == "filtune.DigitsDataModule"
        assert config.optimizer.class_path == "filtune.LoKO"
        assert config.model.backbone.name == "lenet5"


QUICK = """
data: {class_path: filtune.DigitsDataModule}
model: {backbone: {name: lenet5, pretrained: false}}
optimizer: {class_path: filtune.LoKO, init_args: {observation: logits}}
"""


def test_several_parts_merge_in_any_order() -> None:
    Path("quick.yaml").write_text(QUICK)
    contents = {"a": "data: {max_samples: 20}", "b": "data: {batch_size: 2}", "c": "optimizer: {p0: 0.3, r0: 2.0}"}
    for name, content in contents.items():
        Path(f"{name}.yaml").write_text(content)
    for order in list(permutations([*(f"{name}.yaml" for name in contents), "quick.yaml"]))[::5]:
        config = parsed(*(word for name in order for word in ("--config", name)))
        given = (config.data.init_args.max_samples, config.data.init_args.batch_size, config.optimizer.init_args.p0)
        assert (*given, config.optimizer.init_args.r0) == (20, 2, 0.3, 2.0)
        assert config.optimizer.init_args.observation == "logits"


def test_so_do_mappings_on_the_line() -> None:
    Path("quick.yaml").write_text(QUICK)
    config = parsed(
        "--config=quick.yaml", "--data={max_samples: 4}", "--optimizer={p0: 0.5}", "--trainer={max_epochs: 3}"
    )
    assert (config.data.init_args.max_samples, config.optimizer.init_args.p0, config.trainer.max_epochs) == (4, 0.5, 3)
    assert config.optimizer.init_args.observation == "logits"


def test_another_task_keeps_what_was_said_by_hand() -> None:
    Path("part.yaml").write_text("data: {max_samples: 20}")
    files = ("task/digits", "part.yaml", "task/mnist", *BASE[1:])
    config = parsed(*(word for name in files for word in ("--config", name)))
    assert config.data.class_path == "filtune.ImageDataModule"
    assert config.data.init_args.max_samples == 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "data: {max_samples: 2, init_args: {max_samples: 3}}",
            "data.max_samples: is given twice, in init_args as well",
        ),
        ("data: {max_sample: 2}", "data.max_sample: no such option (in part.yaml); did you mean data.max_samples?"),
        ("data: {max_samples: x}", "data.max_samples: must be a whole number or null, got 'x' (in part.yaml)"),
        ("optimizer: {p0: }", "optimizer.p0: has no value (in part.yaml); give one, or leave it out for the default"),
        ("model: {backbone: }", "model.backbone: has no value (in part.yaml)"),
        ("run: {baselines: }", "run.baselines: has no value (in part.yaml)"),
        ("seed_everything:", "seed_everything: has no value (in part.yaml)"),
        ("data: {batch_size: }", "data.batch_size: has no value (in part.yaml)"),
        ("optimizer: {init_args: 3}", "part.yaml: optimizer.init_args: must be a mapping such as {name: value}, got 3"),
        ("optimizer.p0: 0.3", "optimizer.p0: no such option (in part.yaml); write optimizer: {p0: ...}"),
    ],
)
def test_mistakes_are_named(content: str, words: str, capsys: pytest.CaptureFixture) -> None:
    Path("part.yaml").write_text(content)
    with pytest.raises(SystemExit):
        cli.main(["fit", "--config", "quickstart", "--config", "part.yaml"])
    assert words in capsys.readouterr().err
