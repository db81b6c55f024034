"""Forms with an uploaded file (``multipart/form-data``) as the JSON that the endpoints take.

The body has been read whole by then, up to its limit: nothing of it is written to a temporary file.
"""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what is wrong with a form is in the answer

MOST_PARTS = 16
"""Fields of a form."""

FORM = b"multipart/form-data"
"""Media type of such a body."""


class _Reader:
    """Reader of the parts of a form: of each its name, whether it is a file, its media type, and its content."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, bool, bytes, bytearray]] = []
        self.has_ended = False
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = b"", b""

    def on_part_begin(self) -> None:
        """Begin a part.

        Raises:
            ValueError: If there are too many.
        """
        if len(self.parts) == MOST_PARTS:
            raise ValueError(f"the form has more than {MOST_PARTS} fields")
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        """Take a portion of a header's name."""
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """Take a portion of a header's value."""
        self._value += data[start:end]

    def on_header_end(self) -> None:
        """Keep a header."""
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def on_headers_finished(self) -> None:
        """Take note of the name and the kind of a part.

        Raises:
            ValueError: If it has no name.
        """
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise ValueError("a field of the form has no name")
        kind, _ = parse_options_header(self._headers.get(b"content-type", b""))
        name = options[b"name"].decode("utf-8", "replace")
        self.parts.append((name, b"filename" in options, kind, bytearray()))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Take a portion of a part's content."""
        self.parts[-1][-1].extend(memoryview(data)[start:end])

    def on_end(self) -> None:
        """Take note of the end, without which the form was cut."""
        self.has_ended = True


def json_of_form(content_type: bytes, body: bytes) -> bytes:
    """Return the fields of a form as a JSON object; those of one name that come several times are a list.

    Args:
        content_type: The header, with the boundary of the parts.
        body: The body. A file becomes the base64 of its bytes, or its text where its media type is ``text/...``; other
            fields are texts. A blank id, which an empty field of a page sends, is left out.

    Raises:
        ValueError: If it is no such form.
    """
    _, options = parse_options_header(content_type)
    reader = _Reader()
    callbacks: Any = {name: getattr(reader, name) for name in dir(reader) if name.startswith("on_")}
    try:
        parser = MultipartParser(options.get(b"boundary", b""), callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ValueError(f"the body is no form: {error}") from error
    if not reader.has_ended:
        raise ValueError("the form has no end")
    found: dict[str, list[str]] = {}
    for name, is_file, kind, content in reader.parts:
        is_text = not is_file or kind.startswith(b"text/")
        if name == "id" and is_text and not content.strip():
            continue
        found.setdefault(name, []).append(_text(name, content) if is_text else base64.b64encode(content).decode())
    return json.dumps({name: values[0] if len(values) == 1 else values for name, values in found.items()}).encode()


def _text(name: str, content: bytearray) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name[:60]}: the field of the form is no text in UTF-8; an image has a media type such as image/png"
        ) from error
