"""``fit`` calls nothing that a configuration names but data modules, optimizers, callbacks, loggers and profilers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from filtune.experiments.classes import find_class
from lightning.pytorch.callbacks import Callback

from filtune.cli import main
from filtune.named_classes import check_classes
from tests.security.conftest import Refused

PROCESS = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "mark"]}}


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["fit", "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--config=loko",
            "--data.max_samples=2", "--data.max_val_samples=2", "--trainer.enable_progress_bar=false"]  # fmt: skip


REFUSED = [
    ("data", PROCESS),
    ("optimizer", PROCESS),
    ("optimizer.noise", {"name": "fixed", "x": PROCESS}),
    ("model.backbone.name", "subprocess.Popen"),
    ("model.backbone.adapter_args", {"x": PROCESS}),
    ("model.backbone.adapter_args", {"x": [{"y": PROCESS}]}),
    ("model.param_groups", {"fc": {"x": PROCESS}}),
    ("trainer.callbacks", [PROCESS]),
    ("trainer.callbacks", [{"class_path": "LambdaCallback", "init_args": {"setup": "os.system"}}]),
    ("trainer.callbacks", [{"class_path": "LambdaCallback", "init_args": {"setup": PROCESS}}]),
    ("trainer.logger", PROCESS),
    ("trainer.logger", [PROCESS]),
    ("trainer.profiler", PROCESS),
    ("trainer.profiler", {"class_path": "PyTorchProfiler", "init_args": {"on_trace_ready": "os.system"}}),
    ("trainer.plugins", [PROCESS]),
    ("trainer.strategy", PROCESS),
    ("trainer.accelerator", PROCESS),
]


@pytest.mark.parametrize(("place", "refusal"), enumerate(REFUSED))
def test_a_class_or_a_function_of_no_kind_that_is_taken_is_refused(
    place: int, refusal: tuple[str, Any], fit: list[str], refused: Refused
) -> None:
    """In a file or as an option of the line, by turns."""
    key, value = refusal
    if place % 2:
        section, *way = key.split(".")
        tree = value
        for step in reversed(["init_args", *way] if section == "optimizer" and way else way):
            tree = {step: tree}
        Path("own.yaml").write_text(yaml.safe_dump({section: tree}))
        refused(*fit, "--config", "own.yaml")
    else:
        refused(*fit, f"--{key}", value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True))
    assert not Path("mark").exists()
    assert not list(Path().rglob("last.ckpt"))


def test_a_file_that_a_configuration_names_is_checked_as_well(fit: list[str], refused: Refused) -> None:
    Path("inner.yaml").write_text(yaml.safe_dump([PROCESS]))
    Path("one.yaml").write_text(yaml.safe_dump(PROCESS))
    for content in (
        {"trainer": {"callbacks": "inner.yaml"}},
        {"trainer": {"logger": "one.yaml"}},
        {"config": "x.yaml"},
    ):
        Path("own.yaml").write_text(yaml.safe_dump(content))
        refused(*fit, "--config", "own.yaml")
    assert not Path("mark").exists()


class Own(Callback):
    """A user-defined callback."""


def test_what_may_be_named_is_let_through() -> None:
    """User-defined classes of the accepted kinds, and Lightning's own elsewhere in the trainer."""
    check_classes(
        {
            "data": {"class_path": "filtune.ChangingDataModule", "init_args": {
                "streams": [{"class_path": "filtune.DigitsDataModule"}]}},
            "optimizer": {"class_path": "filtune.LoKO"},
            "trainer": {
                "callbacks": [{"class_path": f"{__name__}.Own"}],
                "strategy": {"class_path": "lightning.pytorch.strategies.SingleDeviceStrategy"},
                "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "x"}},
            },
        },
        None,
    )  # fmt: skip


def test_an_own_class_is_taken_by_fit(fit: list[str], evil: str, mark: Path) -> None:
    Path("own.yaml").write_text("trainer: {callbacks: [{class_path: evil_module.Watcher}]}\n")
    main([*fit, "--config=own.yaml", "--optimizer=evil_module.Rule", "--model.backbone.name=evil_module.Net"])
    assert mark.read_text().startswith("imported called")
    assert find_class("optimizer", "evil_module.Rule").__name__ == "Rule"
    mark.unlink()


@pytest.mark.parametrize("options", [["--own_class"], ["--own_class="], ["--own_class=x"], ["--own_class=a.B c"]])
def test_the_switch_needs_a_class_path(options: list[str], refused: Refused) -> None:
    assert "--own_class" in refused("validate", "--config=quickstart", *options)


def test_the_switch_is_not_for_fit(fit: list[str], refused: Refused) -> None:
    assert "fit takes the classes of its configuration" in refused(*fit, "--own_class=a.B")
