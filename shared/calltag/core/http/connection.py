"""One connection of a client: flow control in both directions, deadlines, and a fair share of the event loop.

A `ConnectionProtocol` parses the bytes: HTTP/1.1 first, WebSocket after an upgrade. It runs in callbacks: an idle
connection has no task.
"""

import asyncio
import fcntl
import itertools
import termios
from typing import TYPE_CHECKING, Final, Protocol, cast

from calltag.core.http.http1 import Http1
from calltag.core.http.request_parser import RequestLimit

if TYPE_CHECKING:
    from calltag.core.http.server import Server

READ_BYTES: Final = 65_536
"""Maximum bytes of one read, and so of one connection in one iteration of the event loop."""
_PENDING_BYTES: Final = 65_536
"""Unparsed bytes at which reading pauses."""
_UNSENT_BYTES: Final = 65_536
"""High-water mark of the write buffer, at which writers wait."""
_ENCRYPTED_BYTES: Final = 32_768
_LARGE_BYTES: Final = 16_384
"""Connections that hold less are never refused for the total that all connections hold."""
_CORK_BYTES: Final = 65_536
"""Maximum bytes that are corked until the end of the iteration, to be sent in one system call."""
_LOOKS: Final = 4
"""Checks of a client that does not read, within `write_stall_s`."""
_LINGER_BYTES: Final = 1_048_576
"""Maximum bytes that are read and dropped after the last response, so that a reset does not overtake it."""
_numbers: Final = itertools.count(1)


class ConnectionProtocol(Protocol):
    """Parses the bytes of a connection and reacts to its events."""

    def parse(self) -> bool:
        """Parse `connection.data` from `connection.at` on; return whether work is left for the next iteration."""
        ...

    def expire(self) -> None:
        """React to the deadline that `connection.expect` has set."""
        ...

    def end_of_input(self) -> bool:
        """React to the end of the client's input; return whether a response is still due."""
        ...

    def lost(self) -> None:
        """React to the end of the connection."""
        ...

    def shut_down(self) -> None:
        """Begin a graceful close, because the server stops; close at once if nothing is in flight."""
        ...

    def writable(self) -> None:
        """Continue writing: the write buffer has drained."""
        ...

    def give_up(self) -> None:
        """End without waiting further: the drain timeout of the server is over."""
        ...

    @property
    def held_bytes(self) -> int:
        """Parsed bytes that wait to be served."""
        ...

    def turn_away(self) -> None:
        """End with an overload error: the server holds too many bytes."""
        ...


class _Ended:
    """Implements ConnectionProtocol after the end of the connection."""

    def parse(self) -> bool:
        return False

    def expire(self) -> None: ...

    def end_of_input(self) -> bool:
        return False

    def lost(self) -> None: ...

    def shut_down(self) -> None: ...

    def writable(self) -> None: ...

    def give_up(self) -> None: ...

    @property
    def held_bytes(self) -> int:
        return 0

    def turn_away(self) -> None: ...


_ENDED: Final = _Ended()


class Connection(asyncio.BufferedProtocol):
    """A connection as the transport sees it: buffers, deadlines, and the protocol that parses it."""

    __slots__ = (
        "__weakref__",
        "_close_timer",
        "_dropped",
        "_flush_scheduled",
        "_held",
        "_out",
        "_out_bytes",
        "_stall_timer",
        "_view",
        "_waiting_to_write",
        "_work_scheduled",
        "at",
        "at_end_of_input",
        "data",
        "deadline_at",
        "deadline_tick",
        "ended_badly",
        "id",
        "in_turn",
        "is_closing",
        "is_lost",
        "is_reading",
        "is_tls",
        "is_writable",
        "local",
        "loop",
        "peer",
        "protocol",
        "server",
        "transport",
        "was_opened",
    )

    def __init__(self, server: "Server", peer: tuple[str, int]) -> None:
        self.server = server
        self.peer = peer
        """Address and port of the other end, which may be a proxy."""
        self.id = next(_numbers)
        """Number of the connection, unique in this process."""
        self.loop = server.loop
        self.data = b""
        """Received bytes, parsed up to `at`."""
        self.at = 0
        self.is_writable = True
        self.is_closing = False
        self.is_lost = False
        self.was_opened = False
        self.at_end_of_input = False
        self.is_reading = True
        self.is_tls = False
        self.in_turn = False
        """Its bytes are being parsed; writes are corked until the end, and sent in one system call."""
        self.ended_badly = False
        """It was lost by an error, or with bytes unsent or unacknowledged by TCP: the client may lack them. Set when it
        is lost."""
        self.protocol: ConnectionProtocol = Http1(self)
        self.transport: asyncio.Transport
        self._view = server.read_view
        self._work_scheduled = False
        self._flush_scheduled = False
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._dropped = 0
        self._held = 0
        """Bytes that the server counts for this connection."""
        self._waiting_to_write: asyncio.Future[None] | None = None
        self.deadline_at: float | None = None
        self.deadline_tick = 0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None

    # Events of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_tls = transport.get_extra_info("sslcontext") is not None
        local = transport.get_extra_info("sockname")
        self.local: tuple[str, int] | None = (local[0], local[1]) if local else None
        self.transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        if self.is_tls:
            # asyncio and uvloop both have it on TLS transports; the default is 256 KiB of encrypted bytes for each.
            getattr(transport, "set_read_buffer_limits", lambda **_: None)(high=_ENCRYPTED_BYTES)
        self.was_opened = True
        self.server.opened(self)
        self.expect(self.server.limits.head_deadline_s)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the library calls it so
        return self._view

    def switch_to(self, protocol: ConnectionProtocol) -> None:
        """Continue in another protocol."""
        self.protocol = protocol

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._view[:nbytes])
        if self.is_closing:
            self._drop(nbytes)
            return
        self.data, self.at = self.data[self.at :] + data if self.data else data, 0
        if nbytes == READ_BYTES:
            # More bytes wait in the socket: other connections go first.
            self.work_soon()
        elif not self._work_scheduled:
            self._work()

    def eof_received(self) -> bool:
        self.at_end_of_input = True
        is_owed_an_answer = not self.is_closing and self.protocol.end_of_input() and not self.is_tls
        if not is_owed_an_answer:
            self.close()
        return is_owed_an_answer

    def pause_writing(self) -> None:
        self.is_writable = False
        if self._stall_timer is None:
            self._watch_progress(self.transport.get_write_buffer_size(), self.loop.time())
        self._regulate_reading()

    def resume_writing(self) -> None:
        self.is_writable = True
        if self._waiting_to_write is not None and not self._waiting_to_write.done():
            self._waiting_to_write.set_result(None)
        self._waiting_to_write = None
        self.protocol.writable()
        self.work_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_badly = self.ended_badly or exc is not None or self._has_unsent()
        self.is_lost = self.is_closing = True
        self.data, self.at, self._out = b"", 0, []
        self.server.deadlines.forget(self)
        for timer in (self._stall_timer, self._close_timer):
            if timer is not None:
                timer.cancel()
        if self._waiting_to_write is not None and not self._waiting_to_write.done():
            self._waiting_to_write.set_result(None)
        self.protocol.lost()
        self.server.hold(-self._held)
        # Without reference cycles the memory is freed at once.
        self.protocol = _ENDED
        del self.transport
        self.server.lost(self)

    # Reading

    @property
    def unparsed(self) -> int:
        """Number of received bytes that are not parsed."""
        return len(self.data) - self.at

    def parsed(self, to: int) -> None:
        """Advance the parse position to `to`; drop the data once all of it is parsed."""
        if to < len(self.data):
            self.at = to
        else:
            self.data, self.at = b"", 0

    def work_soon(self) -> None:
        """Continue parsing in the next iteration of the loop."""
        if not self._work_scheduled and not self.is_closing:
            self._work_scheduled = True
            self.loop.call_soon(self._work)
            self._regulate_reading()

    def _work(self) -> None:
        self._work_scheduled = False
        if self.is_closing:
            return
        self.in_turn = True
        try:
            # Backpressure: requests of a client that does not read wait for `resume_writing`.
            if self.is_writable and self.protocol.parse():
                self.work_soon()
        finally:
            self.in_turn = False
            if self._out:
                self._flush()
        self.note_held()
        self._regulate_reading()

    def note_held(self) -> None:
        """Update the server's count of held bytes; refuse a large connection if that is over the limit."""
        held = 0 if self.is_closing else self.unparsed + self.protocol.held_bytes
        grown, self._held = held - self._held, held
        if grown and not self.server.hold(grown) and held > _LARGE_BYTES and grown > 0:
            self.server.refused(RequestLimit.RECEIVED_BYTES)
            self.protocol.turn_away()

    def _regulate_reading(self) -> None:
        """Pause reading while unparsed bytes or scheduled work wait, or the client does not read."""
        if self.is_lost or self.at_end_of_input:
            return
        wanted = self.is_closing or (self.is_writable and not self._work_scheduled and self.unparsed < _PENDING_BYTES)
        if wanted is not self.is_reading and not self.transport.is_closing():
            self.is_reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def _drop(self, count: int) -> None:
        self._dropped += count
        if self._dropped > _LINGER_BYTES:
            self.abort()

    # Writing

    def write(self, data: bytes) -> None:
        """Write at the end of this iteration of the loop, together with its other writes."""
        if self.is_closing:
            return
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > _CORK_BYTES:
            self._flush()
        elif not self._flush_scheduled and not self.in_turn:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush)

    def write_now(self, data: bytes) -> None:
        """Write at once, behind corked bytes: corking gains nothing for a single write in an iteration."""
        if self.is_closing:
            return
        if self._out:
            self._flush()
        self.transport.write(data)

    def _has_unsent(self) -> bool:
        return bool(self._out) or self.transport.get_write_buffer_size() > 0

    def _has_unacknowledged(self) -> bool:
        """Return whether bytes are not acknowledged by TCP, where the system reports it (TIOCOUTQ)."""
        if self._has_unsent():
            return True
        socket = self.transport.get_extra_info("socket")
        count = bytearray(4)
        try:
            fcntl.ioctl(-1 if socket is None else socket.fileno(), termios.TIOCOUTQ, count)
        except (OSError, ValueError):
            return False
        return any(count)

    def _flush(self) -> None:
        self._flush_scheduled = False
        out, self._out, self._out_bytes = self._out, [], 0
        if out and not self.is_lost and not self.transport.is_closing():
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    async def writable(self) -> None:
        """Wait until the write buffer has drained or the connection has ended."""
        if self._out:
            self._flush()
        if not self.is_writable and not self.is_lost:
            if self._waiting_to_write is None:
                self._waiting_to_write = self.loop.create_future()
            await asyncio.shield(self._waiting_to_write)

    def _watch_progress(self, unread: int, since: float) -> None:
        """Abort if the client has read nothing for `write_stall_s`; `since` is the time of the last progress."""
        self._stall_timer = None
        if self.is_lost or self.is_writable:
            return
        now, now_unread, stall_s = self.loop.time(), self.transport.get_write_buffer_size(), self._stall_s
        if now_unread < unread:
            since = now
        elif now - since >= stall_s:
            self.server.refused(RequestLimit.WRITE_STALL)
            self.abort()
            return
        self._stall_timer = self.loop.call_later(stall_s / _LOOKS, self._watch_progress, now_unread, since)

    @property
    def _stall_s(self) -> float:
        return self.server.limits.write_stall_s

    # Deadlines

    def expect(self, within_s: float) -> None:
        """Set the deadline, in place of the former one; `protocol.expire` is called when it passes."""
        self.server.deadlines.expect(self, within_s)

    def relax(self) -> None:
        """Wait without a deadline."""
        self.deadline_at = None

    def deadline_passed(self) -> None:
        """Implements WheelMember."""
        if not self.is_closing:
            self.protocol.expire()

    # The end

    def close(self, *, linger: bool = False) -> None:
        """Close when all is written, or when the client has read nothing for `close_deadline_s`.

        `linger`: input may be unread. Only the sending side is closed at first, and further input is dropped, because
        a reset would destroy the response in flight (RFC 9112, 9.6).
        """
        if self.is_closing:
            return
        self._flush()
        self.is_closing = True
        self.data, self.at = b"", 0
        self._expect_close()
        self.note_held()
        if linger and not self.at_end_of_input and self.transport.can_write_eof():
            try:
                self.transport.write_eof()
            except OSError:
                # The client has reset the connection first.
                self.abort()
                self.ended_badly = True
            self._regulate_reading()
        else:
            self.transport.close()

    def close_idle(self) -> None:
        """Close an idle connection; bytes that TCP has not acknowledged by now count as lost."""
        self.ended_badly = self._has_unacknowledged()
        self.close()

    def _expect_close(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        deadline_s = self.server.limits.close_deadline_s
        self._close_timer = self.loop.call_later(deadline_s, self._close_is_late, unsent)

    def _close_is_late(self, unsent: int) -> None:
        """Abort unless the client makes progress in reading."""
        now_unsent = self.transport.get_write_buffer_size()
        if 0 < now_unsent < unsent:
            self._expect_close()
            return
        if now_unsent:
            self.server.refused(RequestLimit.CLOSE_DEADLINE)
        self.abort()

    def abort(self) -> None:
        """Reset the connection; unsent bytes are lost."""
        if self.is_lost:
            return
        self.is_closing = True
        self.ended_badly = self._has_unacknowledged()
        self._out = []
        self.transport.abort()

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "https" if self.is_tls else "http"
