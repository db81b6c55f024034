"""Corruptions of images against references in float64, and their determinism."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from filtune.datamodules import ChangingDataModule, DataError, DigitsDataModule, ImageDataModule, Segment
from filtune.datamodules.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import jpeg

GREY = 0.5
NOISES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape or (3, 20, 28)))


def apply(pixels: Tensor, name: str, severity: int = 3, seed: int = 0) -> Tensor:
    return corrupted(pixels, name, severity, np.random.default_rng(seed))


def distribution(name: str, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of a grey pixel after a noise, and the probability of each."""
    if name == "impulse_noise":
        return np.array([0, GREY, 1]), np.array([c / 2, 1 - c, c / 2])
    if name == "shot_noise":
        counts = np.arange(400)
        logarithms = counts * math.log(c * GREY) - c * GREY - np.array([math.lgamma(k + 1) for k in counts])
        return (counts / c).clip(0, 1), np.exp(logarithms)
    z = np.linspace(-10, 10, 200_001)
    density = np.exp(-z * z / 2)
    scale = c * GREY if name == "speckle_noise" else c
    return (GREY + scale * z).clip(0, 1), density / density.sum()


@pytest.mark.parametrize("severity", range(1, SEVERITIES + 1))
@pytest.mark.parametrize("name", NOISES)
def test_noise_has_the_mean_and_the_variance_of_its_definition(name: str, severity: int) -> None:
    """Of n values within five standard deviations: sd / sqrt n of a mean, sqrt((m4 - var^2) / n) of a variance."""
    values, weights = distribution(name, CORRUPTIONS[name].constants[severity - 1])
    mean = float(values @ weights)
    variance, fourth = (float((values - mean) ** power @ weights) for power in (2, 4))
    found = apply(torch.full((3, 200, 200), GREY, dtype=torch.float64), name, severity)
    n = found.numel()
    assert abs(float(found.mean()) - mean) < 5 * math.sqrt(variance / n)
    assert abs(float(((found - mean) ** 2).mean()) - variance) < 5 * math.sqrt((fourth - variance**2) / n)


def test_impulses_are_whole_and_the_rest_is_as_it_was() -> None:
    pixels = image(3, 100, 100)
    found = apply(pixels, "impulse_noise", 5)
    changed = found != pixels
    assert set(found[changed].tolist()) == {0.0, 1.0}
    assert abs(float(changed.double().mean()) - 0.27) < 5 * math.sqrt(0.27 * 0.73 / pixels.numel())


@pytest.mark.parametrize("severity", range(1, SEVERITIES + 1))
def test_blur_is_a_gaussian_of_the_relative_width(severity: int) -> None:
    pixels, sigma = image(), [1, 2, 3, 4, 6][severity - 1] * 20 / 224
    radius = math.ceil(4 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    expected = np.pad(pixels.numpy(), ((0, 0), (radius, radius), (radius, radius)), mode="reflect")
    for axis in (1, 2):
        expected = np.apply_along_axis(np.convolve, axis, expected, kernel, mode="valid")
    np.testing.assert_allclose(apply(pixels, "gaussian_blur", severity), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("severity", "c"), enumerate([0.4, 0.3, 0.2, 0.1, 0.05], 1))
def test_contrast_keeps_the_mean_of_each_channel(severity: int, c: float) -> None:
    pixels = image().numpy()
    expected = np.stack([(channel - channel.mean()) * c + channel.mean() for channel in pixels])
    np.testing.assert_allclose(apply(torch.from_numpy(pixels), "contrast", severity), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("severity", range(1, SEVERITIES + 1))
def test_brightness_raises_the_value_alone(severity: int) -> None:
    pixels = image(3, 8, 8)
    pixels[:, 0, 0] = 0  # black has no hue
    expected = np.empty(pixels.shape)
    for i, j in np.ndindex(8, 8):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixels[:, i, j].tolist())
        expected[:, i, j] = colorsys.hsv_to_rgb(hue, saturation, min(1, value + severity / 10))
    np.testing.assert_allclose(apply(pixels, "brightness", severity), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("severity", "c"), enumerate([0.6, 0.5, 0.4, 0.3, 0.25], 1))
def test_pixelate_takes_means_of_boxes(severity: int, c: float) -> None:
    pixels = image().numpy()
    expected = pixels
    for axis in (1, 2):
        side = pixels.shape[axis]
        few = int(c * side)
        boxes = [range(i * side // few, -(-(i + 1) * side // few)) for i in range(few)]
        small = np.stack([np.take(expected, box, axis).mean(axis) for box in boxes], axis)
        expected = np.take(small, [int((i + 0.5) * few / side) for i in range(side)], axis)
    np.testing.assert_allclose(apply(torch.from_numpy(pixels), "pixelate", severity), expected, rtol=0, atol=1e-14)


def test_jpeg_has_the_published_qualities_and_takes_any_channels() -> None:
    pixels = (255 * image(3, 16, 16)).to(torch.uint8)
    for severity, quality in enumerate([25, 18, 15, 10, 7], 1):
        assert torch.equal(apply(pixels, "jpeg_compression", severity), jpeg(pixels, quality))
    two = apply(pixels[:2], "jpeg_compression")
    assert torch.equal(two, torch.cat([jpeg(pixels[:1], 15), jpeg(pixels[1:2], 15)]))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 17), (3, 1, 1)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shape_type_and_range_stay(name: str, shape: tuple[int, ...]) -> None:
    for pixels in (image(*shape), torch.zeros(shape), torch.ones(shape), (255 * image(*shape)).to(torch.uint8)):
        before = pixels.clone()
        for severity in range(1, SEVERITIES + 1):
            found = apply(pixels, name, severity)
            assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
            assert float(found.min()) >= 0
            assert float(found.max()) <= (255 if pixels.dtype == torch.uint8 else 1)
        assert torch.equal(pixels, before)


def test_whole_numbers_are_rounded() -> None:
    pixels = (255 * image()).to(torch.uint8)
    exact = 255 * apply(pixels.double() / 255, "gaussian_noise")
    assert float((apply(pixels, "gaussian_noise").double() - exact).abs().max()) <= 0.5


def stream(*segments: Segment, **options: object) -> ChangingDataModule:
    module = ChangingDataModule([DigitsDataModule()], list(segments), **{"seed": 3, **options})  # type: ignore[arg-type]
    module.setup()
    return module


SEGMENTS = (Segment(4), Segment(8, corruption="gaussian_noise"), Segment(4, corruption="contrast", severity=5))


def images(module: ChangingDataModule) -> list[Tensor]:
    return [batch["image"] for batch in module.train_dataloader()]


def test_the_noise_is_of_the_seed_and_the_position() -> None:
    """The same in worker processes, after a resumption and in a second pass; another at another place or seed."""
    found = images(stream(*SEGMENTS))
    assert all(map(torch.equal, found, images(stream(*SEGMENTS, num_workers=2))))
    first, second = stream(*SEGMENTS), stream(*SEGMENTS)
    passed = iter(first.train_dataloader())
    for _ in range(6):
        next(passed)
    second.load_state_dict(first.state_dict())
    assert all(map(torch.equal, found[6:], images(second)))
    module = stream(*SEGMENTS)
    samples, clean = module.part.samples, stream(Segment(16)).part.samples
    noise = [samples[i]["image"].double() - clean[i]["image"] for i in range(4, 12)]
    assert len({tuple(each.flatten().tolist()) for each in noise}) == 8
    assert all(torch.equal(samples[i]["image"], clean[i]["image"]) for i in range(4))
    other = stream(Segment(16, corruption="gaussian_noise"), seed=4).part
    same = stream(Segment(16, corruption="gaussian_noise"), seed=4).part
    assert torch.equal(other.samples[0]["image"], same.samples[0]["image"])


def test_a_gradual_change_corrupts_what_is_of_the_new_segment() -> None:
    module = stream(Segment(10), Segment(200, corruption="contrast", gradual=200))
    clean = stream(Segment(210)).part.samples
    for position in range(0, 210, 7):
        sample = module.part.samples[position]
        assert torch.equal(sample["image"], clean[position]["image"]) == (sample["regime"] == 0)


def test_validation_is_corrupted_as_the_last_segment() -> None:
    module = stream(*SEGMENTS, max_val_samples=20)
    clean = stream(Segment(4), max_val_samples=20)
    for row in module._val.rows.tolist():
        sample, plain = module._val.samples[row], clean._val.samples[row]
        assert torch.equal(sample["image"], apply(plain["image"], "contrast", 5))
        assert sample["label"] == plain["label"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruption": "fog"}, r"segments\[0\].corruption: 'fog' is not known; choose from gaussian_noise, shot_no"),
        ({"corruption": "contrast", "severity": 6}, r"segments\[0\].severity: 6 must be from 1 to 5"),
        ({"severity": 0}, r"segments\[0\].severity: 0 must be from 1 to 5"),
        ({"severity": 5}, r"segments\[0\].severity: there is no corruption to have it; set corruption too"),
    ],
)
def test_what_there_is_not_is_refused(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        ChangingDataModule([DigitsDataModule()], [Segment(5, **options)])
    assert "\n" not in str(error.value)


def test_pixels_beyond_the_definition_are_refused() -> None:
    with pytest.raises(DataError, match="contrast: an image has pixels from -1 to 1; .*: rescale the images"):
        apply(torch.tensor([[[-1.0, 1.0]]]), "contrast")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_image_beyond_the_definition_is_named_before_training(tmp_path: Path, split: str) -> None:
    """Whichever it is of those that a corrupted segment takes; other segments may have any pixels."""
    for part in ("train", "validation"):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            for k in range(3):
                pixels = np.full((8, 8), 2.5 if (part, label, k) == (split, "b", 2) else 0.5, np.float32)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{k}.tiff")
    stream = {"source": str(tmp_path)}
    ChangingDataModule([ImageDataModule(**stream)], [Segment(12, rotate=90)]).setup()
    with pytest.raises(DataError) as error:
        ChangingDataModule([ImageDataModule(**stream)], [Segment(6), Segment(6, corruption="contrast")]).setup()
    assert f"corruption contrast: {tmp_path / split / 'b' / '2.tiff'} has pixels from 2.5 to 2.5" in str(error.value)
    assert "\n" not in str(error.value)
