"""Weights of a backbone that are damaged or cut short are refused with the file's name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filtune.lightning_modules import BackboneConfig, build_backbone

from tests.conftest import Task


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "flipped header"])
def test_damaged_safetensors_are_refused(tiny_bert: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_bert, folder)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    changed = {"cut": whole[:-100], "header": whole[:50], "empty": b"", "flipped header": flipped(whole, 20)}[damage]
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=rf"model\.backbone\.name: {path} is damaged or cut short: .*copy it again"):
        build_backbone(BackboneConfig(name=str(folder), adapter="lora"), Task())
