"""Where samples come from: streams of texts and images, one at a time, resumable to the sample."""

from datamodules.base import StreamDataModule
from datamodules.changing import ChangingDataModule
from datamodules.digits import DigitsDataModule
from datamodules.errors import DataError
from datamodules.image import ImageDataModule
from datamodules.loader import StreamLoader
from datamodules.regimes import Segment
from datamodules.task import Task
from datamodules.text import TextDataModule

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
