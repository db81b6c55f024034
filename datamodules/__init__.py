"""Where samples come from: streams of texts and images, one at a time, resumable to the sample."""

from datamodules.base import StreamDataModule
from datamodules.digits import DigitsDataModule
from datamodules.errors import DataError
from datamodules.image import ImageDataModule
from datamodules.loader import StreamLoader
from datamodules.task import Task
from datamodules.text import TextDataModule

__all__ = [
    "DataError",
    "DigitsDataModule",
    "ImageDataModule",
    "StreamDataModule",
    "StreamLoader",
    "Task",
    "TextDataModule",
]
