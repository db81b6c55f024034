"""Images of every mode arrive as uint8 or float32, channels first."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from datamodules import ImageDataModule
from datamodules.pixels import decode

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def stored(image: Image.Image, suffix: str = "PNG", **options: object) -> torch.Tensor:
    file = BytesIO()
    image.save(file, suffix, **options)
    return decode({"bytes": file.getvalue(), "path": "ignored"}, Path())


def test_grey_keeps_one_channel() -> None:
    image = stored(Image.fromarray(GREY))
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(GREY)[None])


def test_bilevel_is_black_and_white() -> None:
    assert stored(Image.fromarray(GREY > 100)).unique().tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_have_three_channels(mode: str) -> None:
    image = Image.fromarray(COLOUR)
    if mode == "RGBA":
        image.putalpha(7)
    elif mode == "P":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    assert torch.equal(stored(image), torch.from_numpy(COLOUR).permute(2, 0, 1))


def test_transparency_of_grey_is_dropped() -> None:
    image = Image.fromarray(GREY).convert("LA")
    assert torch.equal(stored(image), torch.from_numpy(GREY)[None])


def test_sixteen_bits_become_floats_between_0_and_1() -> None:
    wide = GREY.astype(np.uint16) * 257
    torch.testing.assert_close(stored(Image.fromarray(wide)), torch.from_numpy(GREY)[None] / 255)


def test_floats_stay_as_they_are() -> None:
    pixels = GREY.astype(np.float32) - 0.25
    assert torch.equal(stored(Image.fromarray(pixels), "TIFF"), torch.from_numpy(pixels)[None])


def test_the_orientation_of_a_photograph_is_applied() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert stored(Image.fromarray(GREY), exif=turned).shape == (1, 4, 3)


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4), (3, 4, 1)])
def test_nested_lists(shape: tuple[int, ...]) -> None:
    assert torch.equal(decode(GREY.reshape(shape).tolist(), Path()), torch.from_numpy(GREY)[None])
    assert decode((GREY.reshape(shape) / 2).tolist(), Path()).dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "missing image"),
        ({"bytes": None, "path": None}, "missing image"),
        ({"bytes": b"", "path": None}, "undecodable image"),
        ("nowhere.png", "undecodable image"),
        ([[1, 2], [3]], "undecodable image"),
        ([[1, 300]], "undecodable image"),
        ([["a"]], "undecodable image"),
        ([[0.5, float("nan")]], "NaN or infinite pixel"),
        ([[0.5, float("inf")]], "NaN or infinite pixel"),
    ],
)
def test_what_is_wrong_is_said(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        decode(value, Path())


def test_sizes_may_differ(tmp_path: Path) -> None:
    images = [Image.fromarray(GREY), Image.fromarray(COLOUR).resize((9, 8))]
    for i, image in enumerate(images):
        (tmp_path / f"class{i}").mkdir()
        image.save(tmp_path / f"class{i}" / "0.png")
    module = ImageDataModule(str(tmp_path), batch_size=2, val_fraction=0, shuffle=False)
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert [tuple(image.shape) for image in batch["image"]] == [(1, 3, 4), (3, 8, 9)]
    assert module.task.image_shape == (1, 3, 4)


def test_a_table_of_float_images(tmp_path: Path) -> None:
    path = tmp_path / "floats.parquet"
    Dataset.from_dict({"image": (np.ones((4, 5, 5)) / 3).tolist(), "label": [0, 1, 0, 1]}).to_parquet(path)
    module = ImageDataModule(str(path), val_fraction=0, batch_size=4)
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert (batch["image"].shape, batch["image"].dtype) == ((4, 1, 5, 5), torch.float32)
