"""Checkpoint files: whole or absent, and refused when they are not this run's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from filtune.lightning_modules import CheckpointError
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO, compare_configs, compare_names

GOOD = {
    "filtune": {"config": {}, "fingerprint": 0, "validation": {}, "rewinds": 0},
    "state_dict": {"w": torch.ones(2)},
    **{name: [] for name in ("optimizer_states", "lr_schedulers")},
    **{"loops": {}, "epoch": 0, "global_step": 1},
}


def test_round_trip(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint(GOOD, tmp_path / "deep" / "last.ckpt")
    loaded = io.load_checkpoint(tmp_path / "deep" / "last.ckpt")
    assert torch.equal(loaded["state_dict"]["w"], torch.ones(2))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["last.ckpt"]


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint(GOOD, path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        io.save_checkpoint({**GOOD, "more": torch.zeros(9)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def corrupt(path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(GOOD, path)
    path.write_bytes(path.read_bytes()[:300])


def foreign(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def pickled(path: Path) -> None:
    torch.save({"filtune": {}, "code": Path("x")}, path)


def sparse(path: Path) -> None:
    place = {**GOOD["state_dict"], "w": torch.eye(3).to_sparse()}
    torch.save({**GOOD, "state_dict": place}, path)


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (sparse, "state_dict.w is no plain tensor"),
        (lambda path: None, "there is no checkpoint"),
        (corrupt, "damaged or not a checkpoint"),
        (lambda path: path.write_text("hello"), "damaged or not a checkpoint"),
        (foreign, "not a checkpoint of filtune"),
        (pickled, "damaged or not a checkpoint"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, make, culprit: str) -> None:
    path = tmp_path / "bad.ckpt"
    make(path)
    with pytest.raises(CheckpointError, match=culprit) as caught:
        AtomicCheckpointIO().load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert "bad.ckpt" in str(caught.value)


CONFIG = {
    "seed_everything": 0,
    "model": {"backbone": {"name": "x", "rank": 4}, "schedule": {"decay": "none"}},
    "data": {"class_path": "D", "init_args": {"batch_size": 1}},
    "optimizer": {"class_path": "O", "init_args": {"p0": 0.2}},
    "trainer": {"precision": "32-true", "max_epochs": 1, "log_every_n_steps": 50},
}


def changed(key: str, value: object) -> dict:
    import copy

    config = copy.deepcopy(CONFIG)
    *path, last = key.split(".")
    inner = config
    for part in path:
        inner = inner[part]
    inner[last] = value
    return config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed_everything", 1),
        ("model.backbone.rank", 8),
        ("optimizer.init_args.p0", 0.3),
        ("data.init_args.batch_size", 2),
        ("trainer.precision", "bf16-mixed"),
    ],
)
def test_a_contradiction_is_named_with_both_values(key: str, value: object) -> None:
    compare_configs(CONFIG, CONFIG)
    with pytest.raises(CheckpointError, match=f"contradicts the checkpoint: {key} ") as caught:
        compare_configs(CONFIG, changed(key, value))
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("trainer.log_every_n_steps", 1), ("trainer.max_epochs", 2)])
def test_what_does_not_change_the_past_may_change(key: str, value: object) -> None:
    compare_configs(CONFIG, changed(key, value))


def test_the_length_of_a_decaying_run_may_not_change() -> None:
    old = changed("model.schedule.decay", "linear")
    new = changed("model.schedule.decay", "linear")
    new["trainer"]["max_epochs"] = 2
    with pytest.raises(CheckpointError, match="trainer.max_epochs"):
        compare_configs(old, new)


def test_the_same_folder_by_another_path_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "glue").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    old = changed("model.backbone.name", "data/glue")
    compare_configs(old, changed("model.backbone.name", str(tmp_path / "data" / "glue")))


@pytest.mark.parametrize(
    ("saved", "culprit"),
    [
        ({}, "lacks a"),
        ({"a": torch.zeros(2), "b": torch.zeros(1)}, "unexpected b"),
        ({"a": torch.zeros(3)}, "shape of a"),
    ],
)
def test_tensors_of_another_model_are_refused(saved: dict, culprit: str) -> None:
    with pytest.raises(CheckpointError, match=culprit):
        compare_names(saved, {"a": torch.zeros(2)})


def test_a_checkpoint_from_before_an_option_is_one_without_it() -> None:
    """The adapters of an earlier Filtune had the prior of all others; a default of today is another setting."""
    before = {"optimizer": {"class_path": "filtune.Filtune", "init_args": {"p0": 0.1}}}
    now = {"optimizer": {"class_path": "filtune.Filtune", "init_args": {"p0": 0.1, "adapter_scale": 1.0}}}
    compare_configs(before, now)
    with pytest.raises(CheckpointError, match=r"adapter_scale \(checkpoint 1.0, now 3.0\)"):
        compare_configs(before, {"optimizer": {"class_path": "filtune.Filtune", "init_args": {"p0": 0.1}}})
