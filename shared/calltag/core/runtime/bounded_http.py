"""HTTP as uvicorn's httptools protocol speaks it, with bounds on the head of a request, which that one has not."""

import asyncio
from typing import ClassVar, Final, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from calltag.core.runtime.corked import CorkedTransport
from calltag.core.runtime.places import PLACE, Places

MAX_HEAD_BYTES: Final = 65_536


class Malformed(Protocol):
    """Counts what comes and is no request."""

    def inc(self) -> None:
        """One more has come."""
        ...


class BoundedHttp(HttpToolsProtocol):
    """Refuses a request with HTTP 400 once its request line and headers have taken more than MAX_HEAD_BYTES, and
    closes a connection on which a head has not come within the deadline.

    What the first read brought is not counted, as it may hold the end of the request before; a read is bounded itself.
    The deadline runs from the beginning of the connection, and then from the first byte after an answer or of a head;
    in between, a connection may be idle for as long as uvicorn keeps it alive.
    """

    head_deadline_s: ClassVar = 10.0
    places: ClassVar[Places | None] = None
    malformed: ClassVar[Malformed | None] = None
    _head_bytes: int | None = None
    """Bytes of the head that is under way; None while there is none."""
    _began_in_this_read = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # An answer's head and body, and the answers to requests that came together, go out in one system call.
        super().connection_made(CorkedTransport(transport, self.loop.call_soon))
        # What stands for the connection goes along when it becomes a WebSocket, and with it its place.
        place = object()
        self.app_state = {**self.app_state, PLACE: place}
        if self.places is not None:
            self.places.take(place)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        if self.places is not None:
            self.places.release(self.app_state[PLACE])
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._began_in_this_read = False
        super().data_received(data)
        if self._head_bytes is not None or self._is_answered():
            self._expect_head()
        if self._head_bytes is None or self._began_in_this_read:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of the request is larger than {MAX_HEAD_BYTES} bytes.")

    def send_400_response(self, msg: str) -> None:
        if self.malformed is not None:
            self.malformed.inc()
        super().send_400_response(msg)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._began_in_this_read = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        self._head_came()
        super().on_headers_complete()

    def _is_answered(self) -> bool:
        """Whether nothing is under way, so that all that can come is a head, or the rest of an unread body."""
        return getattr(self.cycle, "response_complete", True)

    def _expect_head(self) -> None:
        # A connection that has become a WebSocket is not among these any more.
        if self._deadline is None and self in self.connections:
            self._deadline = self.loop.call_later(self.head_deadline_s, self._head_is_late)

    def _head_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        self._deadline = None
        if self._is_answered():
            self.transport.close()
        else:
            # While a request waits for its answer, the next one may not have been read on purpose.
            self._expect_head()


def bounded_http(
    head_deadline_s: float, places: Places | None = None, malformed: Malformed | None = None
) -> type[BoundedHttp]:
    """The protocol with this deadline, in seconds, which gives these places to its connections.

    `malformed` is told of each request that is none.
    """

    class Deadline(BoundedHttp):
        pass

    Deadline.head_deadline_s = head_deadline_s
    Deadline.places = places
    Deadline.malformed = malformed
    return Deadline
