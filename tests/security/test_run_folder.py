"""From a run's folder nothing is imported or called but classes of filtune, and those that the command line names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filtune.datamodules import Task
from filtune.experiments.keys import record_key, run_key
from filtune.experiments.records import Store
from filtune.exports.restore import restore
from filtune.lightning_modules import BackboneConfig, build_backbone
from filtune.lightning_modules.checkpoints import compare_configs
from filtune.lightning_modules.trust import ForeignClassError

from filtune.arguments import CommandLine
from filtune.cli import main
from tests.security.conftest import Refused, Stranger

COMMANDS = ("predict", "export", "validate")
Read = Callable[[str, Stranger], None]
Checked = Callable[..., CommandLine]


@pytest.fixture
def read(checked: Checked) -> Read:
    """What a command takes from a run's folder, without the rest of its work."""

    def take(command: str, stranger: Stranger) -> None:
        if command == "validate":
            checked(stranger)
            return
        run = restore(stranger.checkpoint)
        if command == "predict":
            run.optimizer()

    return take


def set_class(config: dict[str, Any], place: str, path: str, **options: Any) -> None:
    """Name a class at a dotted place."""
    *way, last = place.split(".")
    for step in way:
        config = config[step]
    named = {"class_path": path, "init_args": options}
    config[last] = path if last == "name" else [named] if last in ("callbacks", "plugins") else named


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("data", "evil_module.Digits"),
        ("data", "subprocess.check_output"),
        ("data", "os.system"),
        ("data", "evil_module.Plain"),
        ("data", "filtune.exports.restore.restore"),
        ("optimizer", "evil_module.Rule"),
        ("optimizer", "subprocess.Popen"),
        ("model.backbone.name", "evil_module.Net"),
    ],
)
def test_a_class_from_elsewhere_is_refused(
    command: str, place: str, path: str, stranger: Stranger, evil: str, read: Read
) -> None:
    """The task is not in the checkpoint, so that the data module would be needed."""
    set_class(stranger.config, place, path)
    stranger.write()
    stranger.change_checkpoint(lambda content: content["filtune"].pop("task"))
    if (command, place) == ("export", "optimizer"):  # needs no optimizer, and the digits say what the task is
        read(command, stranger)
        return
    with pytest.raises(ValueError, match=re.escape(path)) as refused:
        read(command, stranger)
    said = str(refused.value)
    if not path.startswith("filtune"):
        assert f"--own_class {path}" in said
    assert "is not a class of filtune" in said or "no such class" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_it_in_one_line(command: str, stranger: Stranger, evil: str, refused: Refused) -> None:
    set_class(stranger.config, "model.backbone.name", "evil_module.Net")
    stranger.write()
    assert "--own_class evil_module.Net" in refused(*stranger.commands()[command])


PROCESS = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "mark"]}}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model.backbone.adapter_args", {"x": PROCESS}),
        ("optimizer.init_args.noise", {"name": "fixed", "x": PROCESS}),
        ("data.init_args.max_samples", PROCESS),
        ("model.param_groups", {"fc": {"x": PROCESS}}),
        ("model.schedule", {"decay": PROCESS}),
    ],
)
def test_a_class_among_the_options_is_refused_or_never_read(
    command: str,
    place: str,
    value: Any,
    stranger: Stranger,
    evil: str,
    read: Read,
    mark: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is read is refused; an export needs neither groups nor a schedule, a prediction no schedule."""
    monkeypatch.chdir(mark.parent)
    *way, last = place.split(".")
    target = stranger.config
    for step in way:
        target = target[step]
    target[last] = value
    if "adapter_args" in place:
        stranger.config["model"]["backbone"] |= {"adapter": "lora", "targets": ["fc1"]}
    stranger.write()
    stranger.change_checkpoint(lambda content: content["filtune"].pop("task"))
    unread = {"export": ("model.param_groups", "model.schedule", "optimizer.init_args.noise"),
              "predict": ("model.schedule",), "validate": ()}  # fmt: skip
    if place in unread[command]:
        read(command, stranger)
    else:
        with pytest.raises((ValueError, TypeError)):
            read(command, stranger)


@pytest.mark.parametrize(
    "options", [{"megatron_config": {"a": 1}, "megatron_core": "evil_module"}, {"auto_mapping": {}}]
)
def test_options_by_which_peft_imports_are_refused(options: dict[str, Any], evil: str) -> None:
    config = BackboneConfig("lenet5", pretrained=False, adapter="lora", targets=["fc1"], adapter_args=options)
    with pytest.raises(ValueError, match=f"adapter_args: {next(iter(options))} makes PEFT import a module"):
        build_backbone(config, Task("digits", "classification", 10, (), "image", (1, 8, 8), ("accuracy",)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("callbacks", [{"class_path": "evil_module.Watcher"}]),
        ("callbacks", "evil_module.Watcher"),
        ("callbacks", [{"class_path": "LambdaCallback", "init_args": {"setup": "evil_module.act"}}]),
        ("logger", "evil_module.Plain"),
        ("logger", [{"class_path": "CSVLogger", "init_args": {"save_dir": "elsewhere"}}]),
        ("profiler", {"class_path": "evil_module.Plain"}),
        ("plugins", ["evil_module.Plain"]),
        ("strategy", {"class_path": "evil_module.Plain"}),
        ("strategy", "evil_module.Plain"),
        ("accelerator", {"class_path": "evil_module.Plain"}),
    ],
)
def test_objects_of_the_training_are_left_out_of_a_validation(
    name: str, value: Any, stranger: Stranger, evil: str, checked: Checked
) -> None:
    stranger.config["trainer"] |= {name: value, "precision": "32-true"}
    stranger.write()
    trainer = checked(stranger).config["trainer"]
    assert name not in trainer
    assert trainer["precision"] == "32-true"


def test_a_validation_without_them(stranger: Stranger, evil: str, tmp_path: Path) -> None:
    stranger.config["trainer"] |= {
        "callbacks": [{"class_path": "evil_module.Watcher"}],
        "logger": [{"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "elsewhere")}}],
    }
    stranger.write()
    main(stranger.commands()["validate"])
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "other.yaml"},
        {"model.backbone.name": "evil_module.Net"},
        {"data": {"class_path": "filtune.DigitsDataModule", "init_args.max_samples": PROCESS}},
        {"model": {"backbone.name": "evil_module.Net"}},
        {
            "data": {
                "class_path": "ChangingDataModule",
                "init_args": {"streams": ["evil_module.Digits"], "segments": []},
            }
        },
        {"trainer": {"max_epochs": PROCESS}},
        {"trainer": {"callbacks.x": PROCESS}},
    ],
)
def test_no_other_spelling_leads_past_the_check(
    changes: dict[str, Any], stranger: Stranger, evil: str, checked: Checked, tmp_path: Path
) -> None:
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"model": {"backbone": {"name": "evil_module.Net"}}}))
    stranger.config |= changes
    stranger.write()
    with pytest.raises(ValueError, match=r"\w"):
        checked(stranger)


def test_the_configuration_in_a_checkpoint_is_compared_without_importing(evil: str, stranger: Stranger) -> None:
    other = {**stranger.config, "data": {"class_path": "evil_module.Digits", "init_args": {"seed": 1}}}
    with pytest.raises(ValueError, match=r"data\.class_path"):
        compare_configs(other, stranger.config)


def test_a_record_is_read_without_importing(evil: str, tmp_path: Path) -> None:
    config = {"data": {"class_path": "evil_module.Digits"}, "optimizer": {"class_path": "evil_module.Rule"}}
    record = {"format": 1, "key": "k", "seed": 0, "config": config, "times": {}, "metrics": {}}
    assert record_key(record) != "k"
    store = Store(tmp_path / "root")
    store.write(record)
    assert store.read("k2") is None


def test_a_class_of_ones_own_is_named_again(
    stranger: Stranger, evil: str, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger.config["model"]["backbone"]["name"] = "evil_module.Net"
    stranger.config["optimizer"] = {"class_path": "evil_module.Rule", "init_args": {"lr": 0.1}}
    stranger.write()
    named = ["--own_class=evil_module.Net", "--own_class", "evil_module.Rule"]
    with pytest.raises(ForeignClassError):
        restore(stranger.checkpoint)
    main([*stranger.commands()["export"], *named])
    assert "imported" in mark.read_text()
    main([*stranger.commands()["validate"], *named])
    line = ["--optimizer", "evil_module.Rule", "--model.backbone.name=evil_module.Net"]
    main([*stranger.commands()["validate"], *line])
    mark.unlink()


def test_the_key_of_ones_own_configuration_leaves_out_its_defaults(evil: str, mark: Path) -> None:
    short = {"data": {"class_path": "evil_module.Digits"}}
    assert run_key(short, 0) == run_key({"data": {"class_path": "evil_module.Digits", "init_args": {}}}, 0)
    mark.unlink()
