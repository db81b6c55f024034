"""What is odd in a run's folder, or above it, is named in one line; a refused run leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filtune.lightning_modules.integrity import sealed

from filtune.cli import main
from tests.cli.run_folders.conftest import FIT, RESUME, Refused


def folder_instead(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return change


def file_instead(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("x")


def pipe_instead(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return change


def loop_instead(run: Path) -> None:
    (run / "baselines.json").unlink(missing_ok=True)
    (run / "baselines.json").symlink_to("baselines.json")


def baselines(place: str) -> Callable[[Path], None]:
    return lambda run: (run / "baselines.json").write_text(json.dumps(sealed({"adamw_1e-3": place})) + "\n") and None


def stem_is_a_file(run: Path) -> None:
    shutil.rmtree(run.parent)
    run.parent.write_text("x")


ODD: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "a folder for the configuration": (folder_instead("config.yaml"), RESUME, "config.yaml: is a folder"),
    "a folder for the checkpoint": (folder_instead("checkpoints/last.ckpt"), RESUME, "last.ckpt: is a folder"),
    "a folder for the lock": (folder_instead(".lock"), RESUME, ".lock: is a folder"),
    "a file for the checkpoints": (file_instead, RESUME, "checkpoints: is a file"),
    "a pipe": (pipe_instead("summary.json"), RESUME, "summary.json: is neither a file nor a folder"),
    "a pipe for the configuration": (
        pipe_instead("config.yaml"), RESUME, "config.yaml: is neither a file nor a folder",
    ),
    "a link to itself": (loop_instead, RESUME, "baselines.json: is a symbolic link that leads back to itself"),
    "no checkpoint of a finished run": (
        lambda run: (run / "checkpoints" / "last.ckpt").unlink(), RESUME, "last.ckpt: is missing",
    ),
    "no configuration of a run": (
        lambda run: (run / "config.yaml").write_text("model: 3\n"), RESUME, "config.yaml: damaged, or no configuration",
    ),
    "a baseline at the root": (baselines("/"), RESUME, "baselines.json: adamw_1e-3"),
    "a baseline elsewhere": (
        baselines("/etc/ssl"), RESUME, "baselines.json: adamw_1e-3",
    ),
    "a file above": (stem_is_a_file, FIT, "run.root: the folder"),
    "a root that cannot be": (
        lambda run: None, [*FIT, "--run.root=/proc/nowhere"], "--run.root '/proc/nowhere': cannot be written",
    ),
    "a long root": (lambda run: None, [*FIT, f"--run.root={'x' * 300}"], "cannot be written (file name too long)"),
    "an option of the trainer": (
        lambda run: None, [*FIT, "--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches",
    ),
    "an interval": (lambda run: None, [*FIT, "--run.save_interval=0"], "run.save_interval"),
    "a checkpoint that is not there": (
        lambda run: Path("empty").mkdir(), [*FIT, "--ckpt_path=empty"], "has no checkpoints/last.ckpt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_named_in_one_line(run: Path, odd: str, refused: Refused) -> None:
    change, command, named = ODD[odd]
    change(run)
    before = {str(path) for path in Path("runs").rglob("*") if path.name != ".lock"}
    assert named in refused(*command)
    assert {str(path) for path in Path("runs").rglob("*") if path.name != ".lock"} == before


def test_odd_names_beside_a_run_are_no_runs(run: Path) -> None:
    (run.parent / "version_²").mkdir()
    (run.parent / "version_9").write_text("no folder")
    main(RESUME)
    assert json.loads((run / "summary.json").read_text())["samples"] == 24
