"""A data set of the hub, or of a folder laid out like the hub's, as a stream that is never held as a whole."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from .base import RawSample, SampleSource, SourceOptions
from .lines import BEGINNING

OPTIONS = ("config", "split", "revision")


class HubSource(SampleSource):
    """The rows of a data set, read by the ``datasets`` library with ``streaming=True``.

    A class index becomes the name of its class, as in ``fit``, and -1 a missing label. Images are read as the bytes of
    their files, so that one that is broken is one bad sample. The position is the state of the library's iterator: it
    goes on within the file that was read, without those before. The state keeps the revision of a data set of the hub,
    and a checksum of the names, the sizes, the first and the last bytes of local files.

    Args:
        address: ``hub:OWNER/NAME`` or ``hub:FOLDER``, with ``?config=NAME&split=NAME&revision=NAME``; the split is
            ``train`` by default.
        options: The options.
        state: What :meth:`state` returned; None to begin.

    Raises:
        ValueError: If there is no such data set, configuration or split, or it is another one than before.
    """

    schemes: ClassVar = ("hub",)

    def __init__(self, address: str, options: SourceOptions, state: Mapping[str, Any] | None = None) -> None:
        super().__init__(address, options, state)
        place, _, query = address.removeprefix("hub:").partition("?")
        given = dict(parse_qsl(query))
        if options.follow or options.skip_read:
            raise ValueError(
                "--input: a data set has an end, and goes on where it was left; leave out --follow, --skip_read"
            )
        if unknown := [name for name in given if name not in OPTIONS]:
            raise ValueError(f"--input: {address}: there is no option {unknown[0]!r}; it has {', '.join(OPTIONS)}")
        self.place, self.split, self.config = place, given.get("split", "train"), given.get("config")
        self.is_local = os.path.isdir(os.path.expanduser(place))
        revision = given.get("revision") or (state or {}).get("revision")
        with self._errors():
            self._open(revision)
        if state and state["identity"] != self.identity:
            raise ValueError(
                f"--input: {self.name} is not the data that the state has read; name that, or another --state"
            )
        self.position = state["position"] if state else self.rows.state_dict()
        with self._errors():
            self.rows.load_state_dict(self.position)
        self._iterator = iter(self.rows)

    def take(self) -> tuple[RawSample, Any] | None:
        """Return the next row."""
        with self._errors():
            row = next(self._iterator, None)
            return None if row is None else (self._named(row), self.rows.state_dict())

    def state(self) -> dict[str, Any]:
        """Return the state of the iterator, and by what the data is recognised."""
        found = {"count": self.count, "position": self.position, "identity": self.identity}
        return found if self.is_local else {**found, "revision": self.identity}

    def _open(self, revision: str | None) -> None:
        """Open the data set; the revision of one on the hub is fixed."""
        import datasets
        from filtune.datamodules.cache import quiet_reading
        from huggingface_hub import HfApi

        place = os.path.expanduser(self.place)
        if not self.is_local:
            if place.count("/") != 1 or place.startswith((".", "/")):
                raise ValueError("there is no such folder, and the names of the hub are OWNER/NAME")
            revision = HfApi().dataset_info(place, revision=revision, timeout=10).sha
        with quiet_reading(local=self.is_local):
            builder = datasets.load_dataset_builder(place, self.config, revision=None if self.is_local else revision)
            self.rows = builder.as_streaming_dataset(split=self.split)
        self.identity: str = self._checksum(builder) if self.is_local else str(revision)
        features = self.rows.features or {}
        self.classes = {name: each.names for name, each in features.items() if isinstance(each, datasets.ClassLabel)}
        self.images = [name for name, each in features.items() if isinstance(each, datasets.Image)]
        for name in self.images:
            self.rows = self.rows.cast_column(name, datasets.Image(decode=False))

    def _named(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row with the names of classes, and the bytes of images."""
        for name, names in self.classes.items():
            value = row[name]
            row[name] = names[value] if value is not None and 0 <= value < len(names) else None
        for name in self.images:
            image = row[name]
            row[name] = image and (image.get("bytes") or image.get("path"))
        return row

    def _checksum(self, builder: Any) -> str:
        found = zlib.crc32(f"{builder.config.name} {self.split}".encode())
        files = (builder.config.data_files or {}).get(self.split.partition("[")[0], [])
        for path in files:
            size = os.path.getsize(path)
            with open(path, "rb") as file:
                found = zlib.crc32(f"{os.path.basename(path)} {size}".encode() + file.read(BEGINNING), found)
                file.seek(max(0, size - BEGINNING))
                found = zlib.crc32(file.read(), found)
        return f"{found:08x}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Report an error of the library in one line.

        Raises:
            ValueError: If the block raises any error.
        """
        try:
            yield
        except Exception as error:  # each builder raises errors of its own
            said = " ".join(str(error).split("Example of usage")[0].split())[:300].rstrip(".") or type(error).__name__
            remedy = "append ?config=NAME&split=NAME"
            if not self.is_local and not isinstance(error, ValueError):
                remedy = "name a local folder laid out like the hub's, or correct the name"
            raise ValueError(f"--input: {self.name}: {said}; {remedy}") from error
