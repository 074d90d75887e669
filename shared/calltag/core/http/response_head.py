"""Encoding of response heads."""

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

Fields = Iterable[tuple[bytes, bytes]]
WITHOUT_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_LINE_ENDS: Final = re.compile(rb"[\r\n\0]")


def head_of(status: int, fields: Fields) -> bytes:
    """Return the head of a response, with the empty line. Raises ValueError for a line end in a field."""
    return response_lines(status, fields) + b"\r\n"


def response_lines(status: int, fields: Fields) -> bytes:
    """Return status line and fields, each with its line end. Raises ValueError as `head_of` does."""
    lines = [_status_line(status)]
    for name, value in fields:
        if _LINE_ENDS.search(name) or _LINE_ENDS.search(value):
            raise ValueError(f"the field {name!r} of the answer has a line end")
        lines.append(name + b": " + value)
    lines.append(b"")
    return b"\r\n".join(lines)


@lru_cache(maxsize=128)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}".encode()


def date_line() -> bytes:
    """Return the Date field for the present time, with its line end; cached for a second."""
    return _date_line(int(time.time()))


@lru_cache(maxsize=2)
def _date_line(second: int) -> bytes:
    return f"date: {formatdate(second, usegmt=True)}\r\n".encode()
