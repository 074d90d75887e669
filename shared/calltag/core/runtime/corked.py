"""Writing once for all that is written in one turn of the loop: each write of a transport is a system call."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

_MOST: Final = 65_536
"""How many bytes wait for the loop to turn at most: as many as a transport buffers, as a rule, before it says that it
is too much."""


class CorkedTransport(asyncio.Transport):
    """A transport in front of another one, which it writes to when the loop has turned, or before it is closed.

    Whoever writes too fast is told by the one behind: with the next turn, or where much was written, at once.
    """

    def __init__(self, behind: asyncio.Transport, call_soon: Callable[[Callable[[], None]], object]) -> None:
        super().__init__()
        self._behind = behind
        self._call_soon = call_soon
        self._waiting: list[bytes] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not data:
            return
        if not self._waiting:
            self._call_soon(self._flush)
        self._waiting.append(bytes(data))
        self._size += len(data)
        if self._size > _MOST:
            self._flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        for each in list_of_data:
            self.write(each)

    def write_now(self, data: bytes) -> None:
        """Write at once, after what waits: who writes but once in a turn gains nothing by its end."""
        if self._waiting:
            self._flush()
        self._behind.write(data)

    def _flush(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        # One that was lost meanwhile takes nothing: uvloop's raises, which nobody here could heed.
        if waiting and not self._behind.is_closing():
            self._behind.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))

    def close(self) -> None:
        self._flush()
        self._behind.close()

    def abort(self) -> None:
        self._waiting, self._size = [], 0
        self._behind.abort()

    def write_eof(self) -> None:
        self._flush()
        self._behind.write_eof()

    def can_write_eof(self) -> bool:
        return self._behind.can_write_eof()

    def is_closing(self) -> bool:
        return self._behind.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._behind.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._size + self._behind.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._behind.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._behind.set_write_buffer_limits(high, low)

    def is_reading(self) -> bool:
        return self._behind.is_reading()

    def pause_reading(self) -> None:
        self._behind.pause_reading()

    def resume_reading(self) -> None:
        self._behind.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._behind.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._behind.get_protocol()
