"""Damaged files of a run: every command refuses them in one line with the file's name, or gives what it would have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filtune.experiments.records import Store, write_json
from filtune.experiments.run_folder import read_run
from filtune.lightning_modules.integrity import DamagedFile
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.harness import as_earlier, only_run, run

COMMON = [
    "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--config=optimizer/adamw_1e-3",
    "--data.max_samples=24", "--data.max_val_samples=20", "--run.save_interval=8", "--trainer.log_every_n_steps=4",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    code, text = run(["fit", *COMMON], folder)
    assert code == 0, text
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    return tmp_path


def flip(place: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1
        path.write_bytes(content)

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def dropping(name: str, value: object = "dropped") -> Callable[[Path], None]:
    """Save a checkpoint again, as one of an earlier release would be, without an entry."""

    def change(path: Path) -> None:
        checkpoint = as_earlier(torch.load(path, weights_only=True))
        if value == "dropped":
            del checkpoint[name]
        else:
            checkpoint[name] = value
        torch.save(checkpoint, path)

    return change


def without_state(path: Path) -> None:
    checkpoint = as_earlier(torch.load(path, weights_only=True))
    del checkpoint["optimizer_states"][0]["state"][0]["exp_avg"]
    torch.save(checkpoint, path)


CHECKPOINT = "checkpoints/last.ckpt"
DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "flipped": (CHECKPOINT, flip(0.5)),
    "cut": (CHECKPOINT, cut),
    "empty": (CHECKPOINT, lambda path: path.write_bytes(b"")),
    "no optimizer": (CHECKPOINT, dropping("optimizer_states")),
    "no loops": (CHECKPOINT, dropping("loops")),
    "no entry": (CHECKPOINT, dropping("filtune", None)),
    "no metrics": (CHECKPOINT, dropping("state_dict", {})),
    "no moments": (CHECKPOINT, without_state),
}
COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "fit": lambda folder: ["fit", *COMMON, "--trainer.max_epochs=2", "--ckpt_path=last"],
    "validate": lambda folder: ["validate", f"--config={folder / 'config.yaml'}", f"--ckpt_path={folder / CHECKPOINT}"],
    "export": lambda folder: ["export", f"--ckpt_path={folder/CHECKPOINT}", "--to=out"],
}  # fmt: skip
UNAFFECTED = {("no moments", "validate"), ("no moments", "export")}
"""They do not read the moments of AdamW."""


def one_line(text: str, name: str) -> None:
    last = text.strip().splitlines()[-1]
    assert last.startswith("filtune: error: "), text
    assert name in last
    assert "Traceback" not in text


USUAL = ("flipped", "no metrics", "no moments")
"""One kind each for all commands: of the archive, of its content, of the optimizer's state."""


@pytest.mark.parametrize(
    ("damage", "command"),
    [
        pytest.param(d, c, marks=() if d in (*USUAL, "no entry") else pytest.mark.slow)
        for d in DAMAGES
        for c in COMMANDS
        if c == "fit" or d in USUAL
    ],
)
def test_a_damaged_checkpoint_is_refused(copied: Path, damage: str, command: str) -> None:
    name, change = DAMAGES[damage]
    folder = only_run(copied)
    change(folder / name)
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    code, text = run(COMMANDS[command](folder), copied)
    if (damage, command) in UNAFFECTED:
        assert code == 0, text
        return
    assert code == 2, text
    one_line(text, "last.ckpt")
    changed = {p for p in folder.rglob("*.*") if p.is_file() and before.get(p) != p.read_bytes()}
    ours = {"config.yaml"} if damage == "no moments" else set()  # noticed in the first step
    assert not {path.name for path in changed if "tfevents" not in path.name} - {".lock"} - ours


@pytest.mark.parametrize("damage", [flip(0.3), pytest.param(cut, marks=pytest.mark.slow)])  # run_folders has both
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("config.yaml", ["validate"]),
        ("config.yaml", ["export"]),
        ("config.yaml", ["compare", "runs"]),
        ("summary.json", ["compare", "runs"]),
        ("events.out", ["compare", "runs"]),
    ],
)
def test_other_damaged_files_are_refused(copied: Path, name: str, command: list[str], damage: Callable) -> None:
    folder = only_run(copied)
    path = next(path for path in folder.iterdir() if path.name.startswith(name))
    damage(path)
    code, text = run(COMMANDS[command[0]](folder) if len(command) == 1 else command, copied)
    assert code == 2, text
    one_line(text, path.name)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut_off=st.booleans())
def test_event_files_of_a_finished_run(finished: Path, place: float, bit: int, cut_off: bool) -> None:
    folder = only_run(finished)
    whole = read_run(folder).curves
    path = next(folder.glob("events.out*"))
    content = path.read_bytes()
    changed = bytearray(content)
    at = int(place * len(content))
    if cut_off:
        del changed[at:]
    else:
        changed[at] ^= 1 << bit
    try:
        path.write_bytes(changed)
        with pytest.raises(DamagedFile, match=path.name):
            _ = read_run(folder).curves
    finally:
        path.write_bytes(content)
    assert read_run(folder).curves == whole


def test_a_run_that_was_killed_may_have_an_incomplete_event(copied: Path) -> None:
    folder = only_run(copied)
    (folder / "summary.json").unlink()
    path = next(folder.glob("events.out*"))
    path.write_bytes(path.read_bytes()[:-3])
    assert "online/loss" in read_run(folder).curves


@pytest.mark.parametrize("content", ["", "{", "[]", "{}x", '{"samples": "many"}', '{"optimizer": "LoKO"}'])
def test_half_a_summary_is_refused(copied: Path, content: str) -> None:
    path = only_run(copied) / "summary.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"summary\.json: damaged"):
        read_run(path.parent)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_damaged_record_is_no_record(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    store = Store(tmp_path_factory.mktemp("root"))
    record = {
        "format": 1, "key": "abc", "status": "finished", "config": {}, "seed": 0, "task": "t", "backbone": "b",
        "optimizer": "o", "metrics": {"online_accuracy": 91.5}, "curves": {}, "times": {},
    }  # fmt: skip
    path = store.root / "records" / "abc.json"
    write_json(path, record)
    whole = store._read_file(path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    assert store._read_file(path) in (whole, None)
    assert json.dumps(whole["metrics"]) == '{"online_accuracy": 91.5}'
