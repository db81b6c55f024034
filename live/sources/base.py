"""Base classes of the sources of ``filtune learn``, and of the outputs that take its answers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from filtune.lightning_modules import signals

RawSample = bytes | Mapping[str, Any] | None
"""A sample as it comes: a JSON object in bytes, its columns, or None where it is too long to be kept."""


class TextFields(dict[str, Any]):
    """The columns of a sample from a source that has no numbers: texts, and bytes where they are not in UTF-8."""


SOURCES: dict[str, type[SampleSource]] = {}
OUTPUTS: dict[str, type[AnswerOutput]] = {}
"""Classes by the scheme of an address; the empty scheme is that of files and pipes."""


@dataclass(frozen=True)
class SourceOptions:
    """Options that a command gives to a source.

    Attributes:
        follow: Whether to wait for more at the end.
        skip_read: Whether standard input begins again from its first line.
    """

    follow: bool = False
    skip_read: bool = False


class SampleSource(ABC):
    """A stream of samples, from where it was left.

    A position belongs to a sample: with the state of the learner after that sample, everything after the position is
    still to be learned from. Samples come one at a time, and no more of them are kept than one reading brings.

    Args:
        address: What ``--input`` names.
        options: The options.
        state: What :meth:`state` returned; None to begin.

    Attributes:
        schemes: What an address begins with, before its colon.
        name: The address as messages show it, without a password.
        count: Samples read, also before this process.
        position: Position after the last of them.

    Raises:
        ValueError: If there is no such source, or it is another one than before.
    """

    schemes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, address: str, options: SourceOptions, state: Mapping[str, Any] | None) -> None:
        self.name, self.options = address, options
        self.count: int = state["count"] if state else 0
        self.position: Any = None

    def __init_subclass__(cls) -> None:
        SOURCES.update(dict.fromkeys(cls.schemes, cls))

    def __iter__(self) -> Iterator[RawSample]:
        """Yield the samples.

        A signal stops the wait for a sample, but not what is done with one.

        Raises:
            Stopped: If a signal came.
        """
        while True:
            signals.defer(False)
            if signals.pending():
                raise signals.Stopped(signals.pending())
            found = self.take()
            signals.defer(True)
            if found is None:
                return
            sample, self.position = found
            self.count += 1
            yield sample

    @abstractmethod
    def take(self) -> tuple[RawSample, Any] | None:
        """Return the next sample and the position after it; None where there is none any more."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return ``count``, the position, and by what the source is recognised, in plain values."""

    def acknowledge(self) -> None:  # noqa: B027
        """Let the source forget what is before the position: a state with it is on the disk."""

    @property
    def counts(self) -> dict[str, int]:
        """Further counts, for the last message."""
        return {}

    @property
    def is_ready(self) -> bool:
        """Readiness of the next sample, which then need not be waited for."""
        return False

    def describe(self) -> dict[str, Any]:
        """Return what an answer says of the place of the last sample."""
        return {"line": self.count}

    def close(self) -> None:  # noqa: B027
        """Close the source."""


class AnswerOutput(ABC):
    """A file or a stream that takes the answers, each once.

    What was written after the last saved state is written again by the next process, or recognised.

    Args:
        address: What ``--output`` names.
        state: What :meth:`state` returned; None where there is no state.

    Attributes:
        schemes: What an address begins with, before its colon.

    Raises:
        ValueError: If it has content of something else, or has lost some.
    """

    schemes: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        OUTPUTS.update(dict.fromkeys(cls.schemes, cls))

    @abstractmethod
    def __init__(self, address: str, state: Any) -> None: ...

    @abstractmethod
    def write(self, row: Mapping[str, Any], is_ready: bool = False) -> None:
        """Write an answer.

        Args:
            row: The answer.
            is_ready: Whether the next sample is available, so that the answer may be sent together with others.
        """

    @abstractmethod
    def state(self) -> Any:
        """Return how much is written, once all of it is safe."""

    def close(self) -> None:  # noqa: B027
        """Close the output."""


def open_source(address: str, options: SourceOptions, state: Mapping[str, Any] | None) -> SampleSource:
    """Return the source at an address."""
    return SOURCES[_scheme(address, SOURCES, "--input")](address, options, state)


def open_output(address: str, state: Any) -> AnswerOutput:
    """Return the output at an address."""
    return OUTPUTS[_scheme(address, OUTPUTS, "--output")](address, state)


def is_file_address(address: str) -> bool:
    """Return whether an address is the path of a file, rather than one of a scheme."""
    scheme, colon, _ = address.partition(":")
    return not (scheme and colon and (scheme in SOURCES or scheme in OUTPUTS))


def _scheme(address: str, known: Mapping[str, Any], option: str) -> str:
    """Return the scheme of an address; the empty one is that of a path.

    Raises:
        ValueError: If there is no such scheme; names those that exist.
    """
    scheme, colon, _ = address.partition(":")
    if colon and scheme in known:
        return scheme
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", address):
        shown = ", ".join(f"{name}:" for name in sorted(known) if name)
        raise ValueError(f"{option}: there is no scheme {scheme!r}; give the path of a file, -, or one of {shown}")
    return ""
