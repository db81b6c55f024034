"""Forms of a sample: a text, a pair of texts, an image, a file, a dict of columns, or numbers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filtune.datamodules.image_decoding import ImageError, decode, pixels_of_array, pixels_of_image
from PIL import Image
from torch import Tensor

from .features import Features, Row, row_of
from .plain import HALF_PAIR, is_text, shortened

Sample = str | tuple[str, str] | Tensor | Row
"""A sample: a text, a pair of texts, an image (C, H, W), or numbers by name."""


class Inputs:
    """A reader of the samples of a learner.

    Args:
        modality: ``text``, ``image`` or ``table``.
        columns: The columns of a dict that are the input: one, the two of a pair of texts, or those of a table, of
            which none stands for all.
        features: Places for the features of a table.

    Attributes:
        features: How the numbers of a table become a vector; replaced as a whole when samples were learned from.

    Raises:
        ValueError: If there are too many columns.
    """

    def __init__(
        self, modality: Literal["text", "image", "table"], columns: Sequence[str] = (), features: int = 0
    ) -> None:
        most = {"text": 2, "image": 1, "table": features}[modality]
        if isinstance(columns, str) or len(columns) > most:
            raise ValueError(f"columns: a list of at most {most} names is needed for {modality}s, got {columns!r}")
        self.modality, self.columns = modality, list(columns)
        self.features = Features.empty(features)

    def read(self, x: Any) -> Sample:
        """Return a sample as the backbone takes it.

        Args:
            x: A text or a pair of texts; an image as PIL's, as an array or tensor, or as the bytes of a file; the path
                of an image file, or, as a :class:`~pathlib.Path`, of a text file; or a dict of columns with one of
                these. For a table a dict of numbers, or a list of them.

        Raises:
            ValueError: If it is none of these, or empty.
        """
        if self.modality == "table":
            return row_of(x, self.columns)
        if isinstance(x, Mapping):
            x = self._columns_of(x)
        return self._text(x) if self.modality == "text" else self._image(x)

    def batch(self, samples: Sequence[Sample], features: Features | None = None) -> dict[str, Any]:
        """Return a batch of samples, as the data modules make them: images of one size are one tensor (B, C, H, W).

        Args:
            samples: What :meth:`read` returned.
            features: The state by which numbers are standardised; by default that of now.
        """
        if self.modality == "table":
            return {"table": (features or self.features).vectors(samples)}  # type: ignore[arg-type]
        same = self.modality == "image" and len({(x.shape, x.dtype) for x in samples}) == 1  # type: ignore[union-attr]
        return {self.modality: torch.stack(samples) if same else list(samples)}  # type: ignore[arg-type]

    def place(self, samples: Sequence[Sample]) -> None:
        """Give places to the names of a table that are new, before the step that learns from the samples."""
        if self.modality == "table":
            self.features = self.features.placed(samples)  # type: ignore[arg-type]

    def learned(self, samples: Sequence[Sample]) -> None:
        """Let the statistics of a table see samples, after the step that learned from them."""
        if self.modality == "table":
            self.features = self.features.learn(samples)  # type: ignore[arg-type]

    def _columns_of(self, row: Mapping[str, Any]) -> Any:
        if not self.columns:
            raise ValueError(
                f"x: a dict of columns needs their names; build the learner with columns=[...], of {[*row]}"
            )
        missing = [name for name in self.columns if name not in row]
        if missing:
            raise ValueError(f"x: the dict has no column {missing[0]!r}; it has {', '.join(map(str, row)) or 'none'}")
        values = [row[name] for name in self.columns]
        return values[0] if len(values) == 1 else tuple(values)

    def _text(self, x: Any) -> Sample:
        if isinstance(x, Path):
            try:
                x = x.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"x: {x} cannot be read as a text in UTF-8 ({error})") from error
        parts = x if isinstance(x, tuple | list) else (x,)
        if not (1 <= len(parts) <= 2 and all(isinstance(part, str) and part.strip() for part in parts)):
            raise ValueError(f"x: a text or a pair of texts is needed, none of them empty; got {_shown(x)}")
        if not all(map(is_text, parts)):
            raise ValueError(f"x: the text {HALF_PAIR}: {_shown(x)}")
        return parts[0] if len(parts) == 1 else (parts[0], parts[1])

    def _image(self, x: Any) -> Sample:
        try:
            if isinstance(x, Image.Image):
                pixels = pixels_of_image(x)
            elif isinstance(x, np.ndarray | list):
                pixels = pixels_of_array(x)
            elif isinstance(x, Tensor):
                pixels = _checked(x.detach().cpu())
            elif isinstance(x, str | Path | bytes):
                return decode(str(x) if isinstance(x, Path) else x, Path())
            else:
                raise ValueError("it is none of PIL's images, an array, a tensor, the bytes of a file or a path")
        except ImageError as error:
            raise ValueError(f"x: {error}") from error
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"x: no image can be made of {_shown(x)}: {error}") from error
        if not pixels.numel():
            raise ValueError(f"x: the image has no pixels: {_shown(x)}")
        if pixels.is_floating_point() and not bool(pixels.isfinite().all()):
            raise ValueError("x: the image has a pixel that is NaN or infinite")
        return pixels


def _checked(image: Tensor) -> Tensor:
    """Return an image (C, H, W) of a tensor, as it is.

    Raises:
        ValueError: If it is of another shape, or neither uint8 nor floating.
    """
    if image.dim() not in (2, 3) or not image.numel():
        raise ValueError("a tensor must be (C, H, W) or (H, W)")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError("a tensor must be uint8 in 0..255 or floating in 0..1")
    return image if image.dim() == 3 else image.unsqueeze(0)


def _shown(x: Any) -> str:
    """Return a value for a message: its text where that is short, else its type."""
    if isinstance(x, np.ndarray | Tensor):
        return f"{type(x).__name__} {tuple(x.shape)} {x.dtype}"
    return shortened(x)
