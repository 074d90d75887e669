"""Frames of WebSockets that are written as they are, so that one serves any number of connections."""

import struct
from collections.abc import Mapping
from typing import Any, Final, Protocol


class FrameWriter(Protocol):
    """Writes a whole frame to a connection at once; False, and nothing was written, if that is not possible now.

    `one_of_many` says that other connections are written to as well, and this one but once for now.
    """

    def __call__(self, frame: bytes, *, one_of_many: bool = False) -> bool: ...


FRAME_WRITER: Final = "calltag.frame_writer"
"""Where a connection's writer is in the `state` of its scope, if the server has one for it."""
_FINAL_TEXT: Final = 0x81
_SHORT, _MEDIUM = 126, 1 << 16
_TWO_BYTES, _EIGHT_BYTES = 126, 127


def text_frame(text: bytes) -> bytes:
    """A server's frame with a whole text message, uncompressed (RFC 6455, section 5.2)."""
    size = len(text)
    if size < _SHORT:
        return struct.pack("!BB", _FINAL_TEXT, size) + text
    if size < _MEDIUM:
        return struct.pack("!BBH", _FINAL_TEXT, _TWO_BYTES, size) + text
    return struct.pack("!BBQ", _FINAL_TEXT, _EIGHT_BYTES, size) + text


def frame_writer_of(scope: Mapping[str, Any]) -> FrameWriter | None:
    """The writer of the connection with that ASGI scope, if there is one."""
    writer: FrameWriter | None = scope.get("state", {}).get(FRAME_WRITER)
    return writer
