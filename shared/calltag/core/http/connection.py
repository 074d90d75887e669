"""One connection of a client: flow control in both directions, deadlines, and a fair share of the event loop.

The bytes are parsed by a `Protocol` of the connection's own: HTTP/1.1 first, WebSocket after an upgrade. It is called
back, and there is no task for a connection that waits.
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
"""Bytes of one read, and so the most that one connection is given of a turn of the event loop."""
_PENDING_BYTES: Final = 65_536
"""Bytes that wait unparsed before the client is read no further."""
_UNSENT_BYTES: Final = 65_536
"""Bytes that wait for the client to read before writers have to wait."""
_ENCRYPTED_BYTES: Final = 32_768
_LARGE_BYTES: Final = 16_384
"""Connections that hold less are never turned away for what all hold together."""
_CORK_BYTES: Final = 65_536
"""Bytes that wait for the end of the turn, so that they go out in one system call."""
_LOOKS: Final = 4
"""Looks at a client that does not read, within the time that it has."""
_LINGER_BYTES: Final = 1_048_576
"""Bytes that are read and dropped after the last answer, so that a reset does not overtake it."""
_numbers: Final = itertools.count(1)


class ConnectionProtocol(Protocol):
    """What parses the bytes of a connection and reacts to its events."""

    def parse(self) -> bool:
        """Take bytes of `connection.data` from `connection.at` on; return whether work is left for the next turn."""
        ...

    def expire(self) -> None:
        """The deadline that was set by `connection.expect` has passed."""
        ...

    def end_of_input(self) -> bool:
        """The client sends no more; return whether it is still owed an answer."""
        ...

    def lost(self) -> None:
        """The connection has ended."""
        ...

    def shut_down(self) -> None:
        """The server stops: end in good order, at once where nothing is under way."""
        ...

    def writable(self) -> None:
        """The client has read enough of what was written to it."""
        ...

    def give_up(self) -> None:
        """The time that the server has to stop is over."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes that were received and wait to be served, beside those that are not parsed."""
        ...

    def turn_away(self) -> None:
        """The server holds too much: end with an answer that says so."""
        ...


class _Ended:
    """Implements ConnectionProtocol where there is no connection."""

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
    """The transport's side of a connection."""

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
        """Address and port of the other end, which may be a proxy's."""
        self.id = next(_numbers)
        """Number that no other connection of this process has."""
        self.loop = server.loop
        self.data = b""
        """What has come, which is parsed up to `at`."""
        self.at = 0
        self.is_writable = True
        self.is_closing = False
        self.is_lost = False
        self.was_opened = False
        self.at_end_of_input = False
        self.is_reading = True
        self.is_tls = False
        self.in_turn = False
        """Whether its bytes are parsed now. What is written meanwhile goes out at the end, in one system call."""
        self.ended_badly = False
        """Whether it was lost by an error, or while something was not sent or not acknowledged, which the client then
        may not have; known when it is lost."""
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
            # Both kinds of loop have it on transports of TLS; by default each may hold 256 KiB that are not decrypted.
            getattr(transport, "set_read_buffer_limits", lambda **_: None)(high=_ENCRYPTED_BYTES)
        self.was_opened = True
        self.server.opened(self)
        self.expect(self.server.limits.head_deadline_s)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the library calls it so
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._view[:nbytes])
        if self.is_closing:
            self._drop(nbytes)
            return
        self.data, self.at = self.data[self.at :] + data if self.data else data, 0
        if nbytes == READ_BYTES:
            # More has come already: it waits until the others have had their turn.
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
        # Without cycles, what has ended is freed at once.
        self.protocol = _ENDED
        del self.transport
        self.server.lost(self)

    # Reading

    @property
    def unparsed(self) -> int:
        """Bytes that have come and are not parsed."""
        return len(self.data) - self.at

    def parsed(self, to: int) -> None:
        """Note how far the data is parsed."""
        if to < len(self.data):
            self.at = to
        else:
            self.data, self.at = b"", 0

    def work_soon(self) -> None:
        """Parse on in the next turn of the loop."""
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
            # A client that does not read is asked for nothing more, whatever it has sent; `resume_writing` goes on.
            if self.is_writable and self.protocol.parse():
                self.work_soon()
        finally:
            self.in_turn = False
            if self._out:
                self._flush()
        self.note_held()
        self._regulate_reading()

    def note_held(self) -> None:
        """Have the server count what this connection holds; beyond the server's bound, a large one is turned away."""
        held = 0 if self.is_closing else self.unparsed + self.protocol.held_bytes
        grown, self._held = held - self._held, held
        if grown and not self.server.hold(grown) and held > _LARGE_BYTES and grown > 0:
            self.server.refused(RequestLimit.RECEIVED_BYTES)
            self.protocol.turn_away()

    def _regulate_reading(self) -> None:
        """Read on unless bytes wait unparsed, work waits for its turn, or the client does not read itself."""
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
        """Write at the end of this turn of the loop, with all else that is written in it."""
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
        """Write at once, after what waits: for a writer that writes once in a turn, a cork gains nothing."""
        if self.is_closing:
            return
        if self._out:
            self._flush()
        self.transport.write(data)

    def _has_unsent(self) -> bool:
        return bool(self._out) or self.transport.get_write_buffer_size() > 0

    def _has_unacknowledged(self) -> bool:
        """Whether the client's system has not confirmed all that was sent, where this system tells that."""
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
        """Wait until the client has read enough of what was written, or the connection has ended."""
        if self._out:
            self._flush()
        if not self.is_writable and not self.is_lost:
            if self._waiting_to_write is None:
                self._waiting_to_write = self.loop.create_future()
            await asyncio.shield(self._waiting_to_write)

    def _watch_progress(self, unread: int, since: float) -> None:
        """Abort if no byte was taken for too long; `since` is when one was."""
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
        """Set the deadline, in place of the one before; `protocol.expire` is called when it has passed."""
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
        """Close when all is written, or at the latest when the client had its time to read it.

        `linger`: something may have come that is not read; only the sending side is closed at first, and what comes
        is dropped, since a reset would destroy the answer on its way (RFC 9112, 9.6).
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
                # The client was faster, and has reset the connection.
                self.abort()
                self.ended_badly = True
            self._regulate_reading()
        else:
            self.transport.close()

    def close_idle(self) -> None:
        """Close after a silence, in which the client had the time to acknowledge all that was sent."""
        self.ended_badly = self._has_unacknowledged()
        self.close()

    def _expect_close(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        deadline_s = self.server.limits.close_deadline_s
        self._close_timer = self.loop.call_later(deadline_s, self._close_is_late, unsent)

    def _close_is_late(self, unsent: int) -> None:
        """Abort, unless the client is still reading what was written."""
        now_unsent = self.transport.get_write_buffer_size()
        if 0 < now_unsent < unsent:
            self._expect_close()
            return
        if now_unsent:
            self.server.refused(RequestLimit.CLOSE_DEADLINE)
        self.abort()

    def abort(self) -> None:
        """End at once; what is not written is lost."""
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
