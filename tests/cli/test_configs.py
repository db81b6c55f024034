"""Configurations are merged before they are parsed: in any order, without leftovers, and the line has the last word."""

from __future__ import annotations

import importlib.metadata
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from filtune.experiments.composition import CONFIGS, compose, find_config, shipped

from filtune import cli
from filtune.lightning_cli import FiltuneCLI

BASE = {"trainer": "trainer/cpu", "task": "task/digits", "backbone": "backbone/lenet5", "optimizer": "optimizer/loko"}


class Composed(FiltuneCLI):
    """The command line up to the composed configuration."""

    def instantiate_classes(self) -> None:
        """Stop here."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def parsed(*args: str, **parts: str) -> dict[str, Any]:
    """The configuration of a command line, with what the parts do not say taken from the base."""
    names = {**BASE, **parts}.values()
    composed = Composed(["fit", *itertools.chain(*(("--config", name) for name in names if name)), *args])
    composed._dump_config()
    return composed.config_dump


def combined() -> list[dict[str, str]]:
    """Every shipped configuration, with the next one of each other kind while there are any."""
    kinds = {kind: [name for name in shipped() if name.partition("/")[0] == kind] for kind in BASE}
    return [
        {kind: name for kind, name in zip(kinds, names, strict=True) if name}
        for names in itertools.zip_longest(*kinds.values())
    ]


@pytest.mark.parametrize("parts", combined(), ids=lambda parts: ", ".join(parts.values()))
def test_a_shipped_configuration_parses_and_names_a_class_that_is_there(parts: dict[str, str]) -> None:
    needed = ["--data.source=x.csv"] if "own_" in parts.get("task", "") else []
    config = parsed(*needed, **parts)
    for name in parts.values():
        written = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        for group, content in written.items():
            if isinstance(content, dict) and "class_path" in content:
                assert config[group]["class_path"] == content["class_path"], name
            assert config[group] if group != "metadata" else "metadata" not in config, name


def test_quickstart_parses() -> None:
    config = parsed(trainer="", task="", backbone="", optimizer="quickstart")
    assert config["run"]["baselines"] == ["loko", "adamw_1e-3"]


def test_without_a_trainer_there_is_one_pass() -> None:
    assert parsed(trainer="")["trainer"]["max_epochs"] == 1


def test_order_does_not_matter() -> None:
    first, *others = [compose(order) for order in itertools.permutations(BASE.values())]
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("optimizer", "optimizer/adamw_warmup", "optimizer/loko"),
        ("optimizer", "optimizer/adamw_warmup", "optimizer/adamw_1e-3"),
        ("task", "task/mnli_mm", "task/stsb"),
        ("backbone", "backbone/minilm_dora", "backbone/lenet5"),
        ("trainer", "trainer/ddp_gpu", "trainer/cpu"),
    ],
)
def test_a_choice_leaves_nothing_to_the_next(kind: str, before: str, after: str) -> None:
    others = [name for part, name in BASE.items() if part != kind]
    assert compose([*others, before, after]) == compose([*others, after])


def test_a_file_of_ones_own_sets_single_options_of_a_choice(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("optimizer: {class_path: LoKO, init_args: {beta: 0.5}}\ndata: {init_args: {max_samples: 3}}\n")
    before, after = compose([str(own), *BASE.values()]), compose([*BASE.values(), str(own)])
    assert after["optimizer"]["class_path"] == "filtune.LoKO"
    assert after["optimizer"]["init_args"]["beta"] == 0.5
    assert before["data"]["init_args"]["max_samples"] == after["data"]["init_args"]["max_samples"] == 3


def test_a_shipped_file_drops_nothing_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "data: {class_path: TextDataModule, init_args: {max_samples: 500, batch_size: 4}}\n"
        "model: {backbone: {name: mine, gradient_checkpointing: true}}\n"
        "trainer: {accelerator: cpu, max_steps: 100}\n"
    )
    config = compose([str(own), "task/mrpc", "backbone/minilm", "trainer/cpu"])
    options = config["data"]["init_args"]
    assert (options["max_samples"], options["batch_size"], options["name"]) == (500, 4, "mrpc")
    assert config["trainer"]["max_steps"] == 100
    assert config["model"]["backbone"]["gradient_checkpointing"]


@pytest.mark.parametrize("text", ["@y", "a: b", "*", "2024-13-45", "null?", "[x"])
def test_a_text_of_the_line_is_taken_as_it_is(text: str) -> None:
    assert parsed(f"--data.task_name={text}")["data"]["init_args"]["task_name"] == text


def test_values_of_the_line_in_former_names() -> None:
    found = parsed("--optimizer=EKF", "--optimizer.covariance=buffered")["optimizer"]["init_args"]
    assert (found["covariance"], found["buffer_size"]) == ("low_rank", 10)
    found = parsed("--optimizer=EKF", "--optimizer.covariance=low-rank", "--optimizer.buffer=5")["optimizer"]
    assert (found["init_args"]["covariance"], found["init_args"]["buffer_size"]) == ("low_rank", 0)


def test_an_optimizer_of_the_line_takes_nothing_over_from_a_file() -> None:
    """LoKO's options must not become AdamW's, nor a learning rate of one rule that of another."""
    config = parsed("--optimizer=AdamW", optimizer="optimizer/sgd")
    assert config["optimizer"] == parsed("--optimizer=AdamW", optimizer="")["optimizer"]
    assert config["optimizer"]["class_path"] == "filtune.AdamW"
    assert parsed("--optimizer=AdamW", "--optimizer.lr=0.02")["optimizer"]["init_args"]["lr"] == 0.02


@pytest.mark.parametrize(
    ("name", "like"),
    [("AdamW", "filtune.AdamW"), ("ADAMW", "AdamW"), ("optimizers.adamw.AdamW", "AdamW"), ("adamw_warmup", None)],
)
def test_an_optimizer_is_named_by_class_or_by_configuration(name: str, like: str | None) -> None:
    found = parsed(f"--optimizer={name}")
    expected = parsed(f"--optimizer={like}") if like else parsed(optimizer=f"optimizer/{name}")
    assert (found["optimizer"], found["model"]) == (expected["optimizer"], expected["model"])


def test_an_exact_class_comes_before_a_configuration_and_that_before_another_case() -> None:
    by_class, by_file = parsed("--optimizer=AdamW"), parsed("--optimizer=adamw")
    assert by_class["model"]["schedule"]["decay"] == "none"
    assert by_file["model"]["schedule"]["decay"] == "linear"
    assert parsed("--data=mnist", task="")["data"]["init_args"]["source"] == "ylecun/mnist"
    assert parsed("--data=digitsdatamodule", task="")["data"]["class_path"] == "filtune.DigitsDataModule"


def test_the_line_has_the_last_word_wherever_it_stands() -> None:
    parts = [*itertools.chain(*(("--config", name) for name in BASE.values()))]
    for line in (["--optimizer.p0=0.7", *parts], [*parts, "--optimizer.p0", "0.7"]):
        assert Composed(["fit", *line]).config.fit.optimizer.init_args.p0 == 0.7


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("quickstart", "quickstart.yaml"),
        ("configs/quickstart.yaml", "quickstart.yaml"),
        ("task/sst2", "task/sst2.yaml"),
        ("configs/task/sst2.yaml", "task/sst2.yaml"),
        ("adamw", "optimizer/adamw.yaml"),
    ],
)
def test_configurations_are_found_by_name_from_any_folder(
    given: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(given) == CONFIGS / found


def test_a_file_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("seed_everything: 7\n")
    assert compose(["quickstart"]) == {"seed_everything": 7}


OLD = """\
run: {against: [adamw], checkpoint_every: 7}
optimizer:
  class_path: optimizers.loko.LoKO
  init_args: {p0: 0.3}
data: {class_path: datamodules.DigitsDataModule}
"""


@pytest.mark.parametrize("header", ["", "# lightning.pytorch==2.6.0\n"])
def test_names_of_earlier_releases_are_understood(
    header: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a line each where a person wrote them; without one in a run's own config.yaml."""
    monkeypatch.setattr("filtune.experiments.composition._said", set())
    own = tmp_path / "config.yaml"
    own.write_text(header + OLD)
    config = parsed("--run.checkpoint_every=9", task=str(own), optimizer="")
    found = config["run"]
    assert (found["root"], found["save_interval"], found["baselines"]) == ("runs", 9, ["adamw"])
    assert config["optimizer"]["class_path"] == "filtune.LoKO"
    assert config["optimizer"]["init_args"]["p0"] == 0.3
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("filtune: note: ")]
    assert len(said) == (1 if header else 4)


def test_entry_point_is_main() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="filtune")
    assert entry.load() is cli.main
