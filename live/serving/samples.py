"""Samples and labels of requests. No text of a request is ever taken for a path."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from filtune.datamodules.image_folder import image_formats
from PIL import Image
from torch import Tensor

from ..core import LearnerCore

MOST_PIXELS = 25_000_000
"""Pixels of an image: a file of a few kilobytes may unpack to gigabytes."""

SHOWN = 80
"""Characters of a sample on the page."""


def read_sample(learner: LearnerCore, x: Any) -> Any:
    """Return a sample of a request as the backbone takes it.

    Args:
        learner: The learner.
        x: What JSON holds: a text or a pair of texts; an image as the base64 of its file, or as nested lists of
            numbers; or an object of columns with one of these.

    Raises:
        ValueError: If it is no such sample; what is wrong, in one line.
    """
    try:
        sample = learner.inputs.read(readable(learner, x))
        if isinstance(sample, Tensor) and not sample.numel():
            raise ValueError("x: the image has no pixels")
        return sample
    except (TypeError, ArithmeticError) as error:  # of libraries, such as a number that fits into no tensor
        raise ValueError(f"x: cannot be read: {error}") from error


def readable(learner: LearnerCore, x: Any) -> Any:
    """Return a sample with the bytes of its image in place of their base64."""
    if learner.inputs.modality != "image":
        return x
    if isinstance(x, Mapping):
        names = learner.inputs.columns
        return {**x, **{name: _image(x[name]) for name in names if name in x}}
    return _image(x)


def check_label(learner: LearnerCore, y: Any) -> None:
    """Check that a label of a request is one.

    Raises:
        ValueError: If it is missing, or no label of the task.
    """
    labels = learner.labels
    if labels.is_missing(y):
        raise ValueError("y: the label is missing")
    if labels.likelihood.is_softmax and isinstance(y, list):
        raise ValueError("y: one class is needed, not a list")
    try:
        if not labels.new_among([y]):
            learner.targets([y])
    except (TypeError, ArithmeticError, RuntimeError) as error:  # of libraries
        raise ValueError(f"y: no label of this task: {error}") from error


def longest(samples: Sequence[Any]) -> int:
    """Return the characters of the longest text among samples as the backbone takes them; 0 of other samples."""
    return max(
        (sum(map(len, [x] if isinstance(x, str) else x)) for x in samples if isinstance(x, str | tuple)), default=0
    )


def excerpt(x: Any, modality: str, columns: Sequence[str] = ()) -> str:
    """Return a sample for the page: the start of its text, or the size of its image.

    Args:
        x: The sample.
        modality: What it is.
        columns: Of an object, the columns that are read; none stands for all. No others are shown.
    """
    if isinstance(x, Mapping):
        read = {name: x[name] for name in columns or x if name in x}
        return _cut(", ".join(f"{name}: {excerpt(value, modality)}" for name, value in read.items()))
    if modality == "image":
        return f"image of {len(x) * 3 // 4:,} bytes" if isinstance(x, str) else "image of numbers"
    if isinstance(x, float):
        return f"{x:.4g}"
    return _cut(" | ".join(map(str, x)) if isinstance(x, list | tuple) else str(x))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _image(x: Any) -> Any:
    if isinstance(x, list):
        return x
    if not isinstance(x, str):
        raise ValueError("x: an image is needed, as the base64 of its file or as nested lists of numbers")
    try:
        data = base64.b64decode(x.removeprefix("data:").rpartition(";base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"x: not the base64 of an image file ({error}); paths and addresses are not read") from error
    try:
        with Image.open(BytesIO(data), formats=image_formats()) as image:  # reads the header alone
            pixels = image.width * image.height
    except Exception as error:  # of every kind, on corrupt data
        raise ValueError("x: not the base64 of an image file that can be decoded") from error
    if pixels > MOST_PIXELS:
        raise ValueError(f"x: the image has {pixels:,} pixels, more than {MOST_PIXELS:,}")
    return data
