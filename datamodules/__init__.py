"""Where samples come from: streams of texts and images, one at a time, resumable to the sample."""

from .base import StreamDataModule
from .changing import ChangingDataModule
from .digits import DigitsDataModule
from .errors import DataError
from .image import ImageDataModule
from .loader import StreamLoader
from .regimes import Segment
from .task import Task
from .text import TextDataModule

__all__ = [
    "ChangingDataModule",
    "DataError",
    "DigitsDataModule",
    "ImageDataModule",
    "Segment",
    "StreamDataModule",
    "StreamLoader",
    "Task",
    "TextDataModule",
]
