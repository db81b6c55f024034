"""Image files that are replaced while a run reads them are found when they are read, in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.datamodules import DataError, ImageDataModule
from PIL import Image


def opened(pictures: Path, **options: Any) -> ImageDataModule:
    module = ImageDataModule(str(pictures), val_fraction=0.0, **options)
    module.setup()
    module.fingerprint()  # as a run takes it before it trains
    return module


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_was_replaced_is_named(pictures: Path, num_workers: int) -> None:
    module = opened(pictures, num_workers=num_workers)
    assert len(list(module.train_dataloader())) == 12
    changed = sorted(pictures.rglob("*.png"))[3]
    Image.new("RGB", (8, 8), "red").save(changed)
    with pytest.raises(DataError) as error:
        list(module.train_dataloader())
    assert str(error.value).startswith(f"{changed}: the image has changed since the run began")
    assert "--ckpt_path last" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_was_copied_over_itself_is_no_other(pictures: Path) -> None:
    module = opened(pictures)
    before = [batch["image"] for batch in module.train_dataloader()]
    for file in pictures.rglob("*.png"):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
        os.utime(file, ns=(1, 1))
    found = [batch["image"] for batch in ImageDataModule.train_dataloader(module)]
    assert all(torch.equal(new, old) for new, old in zip(found, before, strict=True))


def test_images_kept_in_memory_and_images_of_no_run_may_change(pictures: Path) -> None:
    kept = opened(pictures, cache="memory")
    free = ImageDataModule(str(pictures), val_fraction=0.0)
    free.setup()  # without a fingerprint there is nothing to compare with, as in filtune predict
    for file in pictures.rglob("*.png"):
        Image.new("RGB", (8, 8), "red").save(file)
    assert len(list(kept.train_dataloader())) == len(list(free.train_dataloader())) == 12
