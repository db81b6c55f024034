"""Fingerprint of a stream: hashes of its content, from which a resumed run finds out what has changed.

Each sample has two digests, of its raw input (a text, the bytes of an image file) and of its target. Sets of samples
are summed modulo 2^128, so that the sum does not depend on the order; the order has a hash of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .samples import Subset

_BYTES = 16
_CHUNK = 1024


def stream_fingerprint(
    train: Subset, validation: Subset | None, classes: Sequence[str], changes: Iterable[Any] = ()
) -> dict[str, str | int]:
    """Return what identifies a stream, each entry comparable on its own.

    ==============  ==============================================================
    ``rows``        number of samples in the stream
    ``inputs``      its raw inputs, whatever their order
    ``labels``      its targets, whatever their order
    ``pairs``       which input has which target, whatever their order
    ``order``       the samples in the order of the stream
    ``classes``     names of the classes, in the order of the outputs; empty for numbers
    ``validation``  the validation samples, in their order; empty without any
    ==============  ==============================================================

    Args:
        train: The samples of the stream, in its order.
        validation: The validation samples.
        classes: Names of the classes.
        changes: What else happens to the stream, hashed into ``order``.
    """
    inputs = labels = pairs = 0
    order = blake2b(digest_size=_BYTES)
    for change in changes:
        order.update(_digest(repr(change).encode()))
    for content, target in _digests(train):
        pair = _digest(content + target)
        inputs, labels, pairs = inputs + _number(content), labels + _number(target), pairs + _number(pair)
        order.update(pair)
    held_out = blake2b(digest_size=_BYTES)
    for content, target in () if validation is None else _digests(validation):
        held_out.update(content + target)
    return {
        "rows": len(train.rows),
        "inputs": _hexadecimal(inputs),
        "labels": _hexadecimal(labels),
        "pairs": _hexadecimal(pairs),
        "order": order.hexdigest(),
        "classes": _digest(repr(tuple(classes)).encode()).hex() if classes else "",
        "validation": "" if validation is None else held_out.hexdigest(),
    }


def to_bytes(value: Any) -> bytes:
    """Return an unambiguous encoding of a raw input: a text, a pair of texts, bytes, a tensor or nested lists."""
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        return (
            repr((str(value.dtype), tuple(value.shape))).encode() + value.view(-1).view(torch.uint8).numpy().tobytes()
        )
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    return b"r" + repr(value).encode("utf-8", "surrogatepass")


def _digests(part: Subset) -> Iterator[tuple[bytes, bytes]]:
    """Yield the digests of the raw input and the target of every sample, in their order."""
    for start in range(0, len(part.rows), _CHUNK):
        rows = np.asarray(part.rows[start : start + _CHUNK])
        for content, target in part.samples.contents(rows):
            yield _digest(to_bytes(content)), _digest(to_bytes(target))


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=_BYTES).digest()


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "big")


def _hexadecimal(total: int) -> str:
    return f"{total % (1 << 8 * _BYTES):0{2 * _BYTES}x}"
