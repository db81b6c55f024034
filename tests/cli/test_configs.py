"""Every shipped configuration parses; parts compose in any order; any optimizer may follow any other."""

from __future__ import annotations

import importlib.metadata
import inspect
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from filtune.experiments.composition import CONFIGS
from lightning.pytorch.cli import LightningArgumentParser

from filtune import cli, optimizers
from filtune.cli import FiltuneCLI, resolve_configs

OPTIMIZERS = sorted(path.stem for path in (CONFIGS / "optimizer").glob("*.yaml"))
OTHERS = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for part in ("trainer", "task", "backbone")
    for path in (CONFIGS / part).glob("*.yaml")
)
BASE = {"trainer": "trainer/cpu", "task": "task/digits", "backbone": "backbone/lenet5", "optimizer": "optimizer/loko"}


class Composed(FiltuneCLI):
    """The command line up to the composed configuration."""

    def instantiate_classes(self) -> None:
        """Stop here."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def _add_arguments(self, parser: LightningArgumentParser) -> None:
        super()._add_arguments(parser)


def compose(*names: str, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """The composed configuration as a plain dict."""
    parsed = Composed(["fit", *itertools.chain(*(("--config", name) for name in names)), *extra])
    parsed._dump_config()
    return {key: value for key, value in parsed.config_dump.items() if key != "config"}


@pytest.mark.parametrize("name", OTHERS)
def test_parts_parse(name: str) -> None:
    parts = {**BASE, name.partition("/")[0]: name}
    extra = ("--data.source=x.csv",) if "own_" in name else ()
    composed = compose(*parts.values(), extra=extra)
    written = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    for group in written:
        assert composed[group]


def test_quickstart_parses() -> None:
    assert compose("quickstart")["run"]["against"] == ["adamw_1e-3"]


def test_order_does_not_matter() -> None:
    orders = list(itertools.permutations(BASE.values()))
    first = compose(*orders[0])
    assert all(compose(*order) == first for order in orders[1::5])


@cache
def with_optimizers(*names: str) -> dict[str, Any]:
    return compose(*(BASE[part] for part in ("trainer", "task", "backbone")), *names)


@pytest.mark.parametrize(("before", "after"), itertools.permutations(OPTIMIZERS, 2))
def test_an_optimizer_leaves_nothing_to_the_next(before: str, after: str) -> None:
    """jsonargparse keeps arguments of the same name when the class changes, unless the YAML spells them out."""
    alone, replaced = with_optimizers(after), with_optimizers(before, after)
    assert replaced["optimizer"] == alone["optimizer"]
    assert replaced["model"] == alone["model"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_spells_out_every_argument(name: str) -> None:
    written = yaml.safe_load((CONFIGS / "optimizer" / f"{name}.yaml").read_text())
    cls = getattr(optimizers, written["optimizer"]["class_path"].rpartition(".")[2])
    arguments = set(inspect.signature(cls.__init__).parameters) - {"self", "params"}
    assert set(written["optimizer"]["init_args"]) == arguments
    assert set(written["model"]) == {"schedule", "param_groups"}
    assert set(written["model"]["schedule"]) == {"decay", "warmup"}


def test_an_optimizer_can_be_named_on_the_line() -> None:
    rest = [BASE[part] for part in ("trainer", "task", "backbone")]
    composed = compose(*rest, extra=("--optimizer=AdamW", "--optimizer.lr=0.02"))
    assert composed["optimizer"]["class_path"].endswith("AdamW")
    assert composed["optimizer"]["init_args"]["lr"] == 0.02


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
    assert resolve_configs(["fit", "--config", given]) == ["fit", "--config", str(CONFIGS / found)]
    assert resolve_configs(["fit", f"--config={given}"]) == ["fit", "--config", str(CONFIGS / found)]


def test_a_file_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("seed_everything: 7\n")
    assert resolve_configs(["fit", "--config", "quickstart"]) == ["fit", "--config", "quickstart"]


def test_the_line_has_the_last_word_wherever_it_stands() -> None:
    parts = [*itertools.chain(*(("--config", name) for name in BASE.values()))]
    first, last = Composed(["fit", "--optimizer.p0=0.7", *parts]), Composed(["fit", *parts, "--optimizer.p0=0.7"])
    assert first.config.fit.optimizer.init_args.p0 == last.config.fit.optimizer.init_args.p0 == 0.7


def test_entry_point_is_main() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="filtune")
    assert entry.load() is cli.main
