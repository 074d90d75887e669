"""A client of the server without a socket: its bytes come in pieces, and what is written to it is kept."""

import asyncio
from typing import Any

from calltag.core.http.connection import READ_BYTES, Connection
from calltag.core.http.server import Server


class Wire(asyncio.Transport):
    """What the server writes, and whether it has closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Peer:
    """One connection of a client to a server that listens nowhere."""

    def __init__(self, server: Server) -> None:
        server.address = ("127.0.0.1", 2)
        server.places.take("127.0.0.1")
        self.wire = Wire()
        self.connection = Connection(server, ("127.0.0.1", 1))
        self.connection.connection_made(self.wire)

    @property
    def written(self) -> bytes:
        """All that the server has written."""
        return bytes(self.wire.written)

    async def send(self, data: bytes, piece: int) -> None:
        """Send bytes, so many at a time; the server parses what it can of each before the next one comes."""
        for start in range(0, len(data), piece):
            if self.wire.closed:
                return
            part = data[start : start + piece]
            self.connection.get_buffer(-1)[: len(part)] = part
            self.connection.buffer_updated(len(part))
            assert self.connection.unparsed <= 2 * READ_BYTES
            await asyncio.sleep(0)

    def close_sending_side(self) -> None:
        """Send no more; what was asked for may still be answered."""
        if not self.wire.closed and not self.connection.eof_received():
            self.wire.close()

    def go(self) -> None:
        """The connection ends."""
        if not self.connection.is_lost:
            self.wire.close()
            self.connection.connection_lost(None)
