"""Damage of a file is refused with its name, or changes nothing that is read."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filtune.lightning_modules import CheckpointError
from filtune.lightning_modules.checkpoints import CONTENTS, AtomicCheckpointIO
from filtune.lightning_modules.integrity import (
    DamagedFile,
    content_checksum,
    read_json,
    read_yaml,
    sealed,
    sealed_yaml,
)
from hypothesis import example, given
from hypothesis import strategies as st

CHECKPOINT = {
    "filtune": {
        "format": 2,
        "config": {"optimizer": {"class_path": "filtune.LoKO", "init_args": {"p0": 0.2}}},
        "fingerprint": 12,
        "validation": {"val/accuracy": 90.0},
        "rewinds": 0,
        "data": {"rows": 3, "order": "abc"},
    },
    "state_dict": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros((), dtype=torch.int64)},
    "optimizer_states": [{"state": {0: {"p": torch.rand(40)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
    "lr_schedulers": [],
    "loops": {"fit_loop": {"state_dict": {}}},
    "epoch": 0,
    "global_step": 3,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    return path, path.read_bytes()


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def refusal(read: Callable[[Path], Any], path: Path) -> tuple[Any, bool]:
    """What is read of a file, and whether it is refused instead, in one line with its name."""
    try:
        return read(path), False
    except (CheckpointError, DamagedFile) as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message
    return None, True


def refused_or_equal(path: Path) -> bool:
    """Whether a checkpoint is refused; otherwise it must read as it was written."""
    found, refused = refusal(AtomicCheckpointIO().load_checkpoint, path)
    assert refused or equal(found, CHECKPOINT)
    return refused


def test_a_whole_checkpoint_is_read(written: tuple[Path, bytes]) -> None:
    assert not refused_or_equal(written[0])
    assert equal(torch.load(written[0], weights_only=True)["state_dict"], CHECKPOINT["state_dict"])
    with zipfile.ZipFile(written[0]) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"filtune sha256 ")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(place=0.0, bit=0)
def test_a_flipped_bit_is_refused_wherever_it_is(written: tuple[Path, bytes], place: float, bit: int) -> None:
    path, content = written
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 1 << bit
    path = path.with_name("flipped.ckpt")
    path.write_bytes(changed)
    assert refused_or_equal(path)


@given(start=st.floats(0, 1), end=st.floats(0, 1), to=st.sampled_from(["drop", "zero", "repeat"]))
def test_a_cut_is_refused(written: tuple[Path, bytes], start: float, end: float, to: str) -> None:
    path, content = written
    a, b = sorted((int(start * len(content)), int(end * len(content))))
    middle = {"drop": b"", "zero": bytes(b - a), "repeat": 2 * content[a:b]}[to]
    path = path.with_name("cut.ckpt")
    path.write_bytes(content[:a] + middle + content[b:])
    assert refused_or_equal(path) or content[a:b] in (b"", middle)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_without_a_checksum_is_checked_by_its_archive(written: tuple[Path, bytes], place: float, bit: int) -> None:
    """As one of an earlier release: a flipped bit is refused, or in what is not read, such as the padding."""
    path = written[0].with_name("older.ckpt")
    torch.save(CHECKPOINT | {CONTENTS: torch.load(written[0], weights_only=True)[CONTENTS]}, path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    refused_or_equal(path)


def paths(tree: Any, place: tuple = ()) -> list[tuple]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in items for found in ((*place, key), *paths(value, (*place, key)))]


def without(tree: Any, place: tuple) -> Any:
    if isinstance(tree, dict):
        return {k: without(v, place[1:]) if k == place[0] else v for k, v in tree.items() if (k,) != place}
    return [without(v, place[1:]) if k == place[0] else v for k, v in enumerate(tree) if (k,) != place]


@pytest.mark.parametrize("place", paths(CHECKPOINT), ids=str)
def test_a_part_that_was_dropped_is_refused(written: tuple[Path, bytes], place: tuple) -> None:
    """The archive is whole, for someone has saved it again."""
    path = written[0].with_name("dropped.ckpt")
    torch.save(without(torch.load(written[0], weights_only=True), place), path)
    assert refused_or_equal(path)


@pytest.mark.parametrize("name", ["optimizer_states", "loops", "lr_schedulers", "state_dict", "epoch", "filtune"])
@pytest.mark.parametrize("value", [None, "dropped"])
def test_an_earlier_one_without_a_part_is_refused(tmp_path: Path, name: str, value: str | None) -> None:
    earlier = {**CHECKPOINT, "filtune": {k: v for k, v in CHECKPOINT["filtune"].items() if k != "format"}}
    if value == "dropped":
        earlier.pop(name)
    else:
        earlier[name] = None
    path = tmp_path / "last.ckpt"
    torch.save(earlier, path)
    assert refused_or_equal(path)


CONTENT = {"samples": 1200, "val": {"accuracy": 91.25}, "curve": [1, 2.5, None], "name": "größer", "nan": float("nan")}


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_json_file_is_refused_or_reads_the_same(
    written: tuple[Path, bytes], place: float, bit: int, cut: bool
) -> None:
    path = written[0].with_name("summary.json")
    content = bytearray((json.dumps(sealed(CONTENT), indent=2) + "\n").encode())
    at = int(place * len(content))
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << bit
    path.write_bytes(content)
    found, refused = refusal(read_json, path)
    assert refused or repr(found) == repr(CONTENT)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_yaml_file_is_refused_or_reads_the_same(
    written: tuple[Path, bytes], place: float, bit: int, cut: bool
) -> None:
    config = {"optimizer": {"class_path": "filtune.LoKO", "init_args": {"p0": 0.2}}, "seed_everything": 3}
    path = written[0].with_name("config.yaml")
    content = bytearray(sealed_yaml("# a comment\n" + yaml.safe_dump(config)).encode())
    at = int(place * len(content))
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << bit
    path.write_bytes(content)
    found, refused = refusal(read_yaml, path)
    assert refused or found in (config, None)  # cut within the first line, nothing is left: no configuration


def test_files_of_earlier_releases_have_no_checksum(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"samples": 3}')
    (tmp_path / "a.yaml").write_text("samples: 3\n")
    assert read_json(tmp_path / "a.json") == read_yaml(tmp_path / "a.yaml") == {"samples": 3}


def test_a_digest_among_the_fields_is_no_checksum(tmp_path: Path) -> None:
    path, digest = tmp_path / "a.json", 64 * "a"
    for content in ({"digest": digest, "samples": 3}, {"samples": 3, "digest": digest}, {"digest": digest}):
        for text in (sealed(content), content):  # with a checksum, and as an earlier release wrote it
            path.write_text(json.dumps(text))
            assert read_json(path) == content
        path.write_text(json.dumps({"checksun" if k == "checksum" else k: v for k, v in sealed(content).items()}))
        with pytest.raises(DamagedFile, match=re.escape(f"{path}: damaged")):
            read_json(path)


def test_a_summary_has_a_checksum_since_it_has_the_sizes_of_event_files(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"samples": 3}))
    assert read_json(path) == {"samples": 3}
    path.write_text(json.dumps({"samples": 3, "event_bytes": {}}))
    with pytest.raises(DamagedFile, match="checksum does not match"):
        read_json(path)


@pytest.mark.parametrize(
    "text",
    [
        "names: {0: bad, good: 1}\n",
        "names: {1: {2: a, b: c}, null: 3, 2.5: [1, {x: y, 3: z}]}",
        "names: {2020-01-01: a, b: c}\n",
        "a: 1  # without an end",
    ],
)
def test_settings_with_keys_of_any_type_have_a_checksum(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(sealed_yaml(text))
    assert read_yaml(path) == yaml.safe_load(text)
    for old, new in (("a", "b"), ("3", "4"), ("1", "7"), ("sha256", "sha257"), ("# sha256", "")):
        damaged = sealed_yaml(text).replace(old, new, 1) if "sha" in old else sealed_yaml(text.replace(old, new))
        if "sha" not in old:  # the checksum of one content, the text of the other
            damaged = sealed_yaml(text).partition("\n")[0] + "\n" + damaged.partition("\n")[2]
        if damaged != sealed_yaml(text) and (old in text or "sha" in old):
            path.write_text(damaged)
            with pytest.raises(DamagedFile, match=re.escape(str(path))):
                read_yaml(path)


def test_the_checksum_of_plain_content_is_that_of_its_canonical_json() -> None:
    """As every release has written it."""
    content = {"b": [1, 2.5, None, True], "a": {"y": "größer", "x": 3}}
    text = '{"a":{"x":3,"y":"gr\\u00f6\\u00dfer"},"b":[1,2.5,null,true]}'
    assert content_checksum(content) == hashlib.sha256(text.encode()).hexdigest()


def test_without_its_first_and_last_line_a_configuration_may_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(sealed_yaml("samples: 3\n").replace("3\n", "4\n").splitlines()[1:-1]))
    assert read_yaml(path) == {"samples": 4}
