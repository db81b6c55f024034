"""Images of every mode arrive as uint8 or float32, channels first."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from filtune.datamodules import DataError, ImageDataModule
from filtune.datamodules.image_decoding import decode, decode_first
from PIL import Image

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
        ({"bytes": b"", "path": None}, "undecodable image: it is empty"),
        ({"bytes": b"<!DOCTYPE html>", "path": None}, "undecodable image: it is a web page, .*"),
        ("https://example.org/a.png", "image is an address, which is not fetched: https://example.org/a.png"),
        ("nowhere.png", "image not found: nowhere.png"),
        ([[1, 2], [3]], "undecodable image: .*"),
        ([[1, 300]], "undecodable image: integers beyond 0..255"),
        ([["a"]], "undecodable image: neither .* numbers"),
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


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Twelve JPEGs of different sizes, of two classes; each has a colour of its own in the middle."""
    folder = tmp_path / "photographs"
    for k in range(12):
        place = folder / f"class{k % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((90 + 7 * k, 130 - 5 * k, 3), dtype=np.uint8)
        pixels[...] = 20 * k
        Image.fromarray(pixels).save(place / f"{k:02}.jpg", quality=95)
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_large_images_are_brought_to_squares(photographs: Path, num_workers: int) -> None:
    module = ImageDataModule(str(photographs), resize=32, num_workers=num_workers, val_fraction=0, batch_size=12)
    module.setup()
    (batch,) = module.train_dataloader()
    assert (batch["image"].shape, batch["image"].dtype) == ((12, 3, 32, 32), torch.uint8)
    assert module.task.image_shape == (3, 32, 32)
    levels = batch["image"].float().mean((1, 2, 3)).sort().values
    # JPEG at quality 95 moves a flat level by less than two
    torch.testing.assert_close(levels, torch.arange(12.0) * 20, rtol=0, atol=2)


def test_the_middle_is_kept_and_the_aspect(tmp_path: Path) -> None:
    pixels = np.zeros((40, 100, 3), dtype=np.uint8)
    pixels[:, 30:70] = 255  # the middle square
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (decode(str(tmp_path / "wide.png"), Path(), 20)[:, :, 2:-2] > 250).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_what_is_reduced_is_averaged_in_every_mode(mode: str) -> None:
    """Pixels in turn black and white, nearly transparent where they can be: grey."""
    chessboard = Image.fromarray((np.indices((60, 90)).sum(0) % 2 * 255).astype(np.uint8)).convert(mode)
    if mode == "RGBA":
        chessboard.putalpha(7)
    file = BytesIO()
    chessboard.save(file, "PNG")
    grey = decode(file.getvalue(), Path(), 10)
    assert grey.shape == (1 if mode in ("1", "L") else 3, 10, 10)
    # half of 255, rounded by each of two passes
    torch.testing.assert_close(grey.float(), torch.full(grey.shape, 127.5), rtol=0, atol=1)


def test_small_images_stay_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "small.png")
    whole, small = (decode(str(tmp_path / "small.png"), Path(), side) for side in (None, 200))
    assert torch.equal(whole, small)


def test_kept_images_are_decoded_once(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []

    def counted(*args: object) -> tuple[torch.Tensor, int]:
        decoded.append(args[0])
        return decode_first(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("filtune.datamodules.image.decode_first", counted)
    streams = {}
    for cache in ("none", "memory"):
        decoded.clear()
        module = ImageDataModule(str(photographs), cache=cache, val_fraction=0)  # type: ignore[arg-type]
        module.setup()
        loader = module.train_dataloader()
        streams[cache] = [batch["image"] for _ in range(2) for batch in loader]
        assert (len(decoded) == 12) == (cache == "memory")
    assert all(torch.equal(a, b) for a, b in zip(*streams.values(), strict=True))


def test_a_size_of_nothing_is_refused(photographs: Path) -> None:
    with pytest.raises(DataError, match="--data.resize: 0 is too small"):
        ImageDataModule(str(photographs), resize=0)
