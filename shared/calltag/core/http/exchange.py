"""A request of a connection and its response, whoever serves it.

The body is taken from the connection here, and it is decided whether the connection goes on afterwards.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from calltag.core.http.refusals import Refusal
from calltag.core.http.request_parser import LengthBody, RequestHead, body_of

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection
    from calltag.core.http.http1 import Http1

_UNREAD_BODY_BYTES: Final = 65_536
"""Bytes of a body that nobody read which are dropped so that the connection can go on."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
FAILED: Final = Refusal(500, "the request was not answered because of an internal error")
CUT_OFF: Final = Refusal(
    503, "this server stops before the request was answered; whether it took effect is not known", retry_after_s=1
)


class IncomingBody:
    """The body of a request on its way: the part that has come and waits, and the decoder of the rest."""

    __slots__ = ("decoder", "dropped", "expects_continue", "received")

    def __init__(self, head: RequestHead, max_framing_bytes: int) -> None:
        self.decoder = body_of(head, max_framing_bytes)
        self.received = bytearray()
        self.dropped = 0
        self.expects_continue = head.expects_continue

    def drop_received(self) -> None:
        """Drop the part that has come, since nobody reads it."""
        self.dropped += len(self.received)
        self.received.clear()


class Exchange(ABC):
    """Common base of the exchanges; `_incoming` is None where no more of the request can come."""

    __slots__ = ("_connection", "_http", "_incoming", "_is_complete", "head", "keeps_alive")

    def __init__(self, http: "Http1", connection: "Connection", head: RequestHead) -> None:
        self._http = http
        self._connection = connection
        self.head = head
        self._incoming: IncomingBody | None = None
        self._is_complete = False
        """Whether the whole response is written."""
        self.keeps_alive = head.keep_alive
        """Whether the connection goes on after the response."""

    # For those who serve

    @abstractmethod
    def _room(self, incoming: IncomingBody) -> int:
        """How many more bytes of the body are taken before they are served."""

    @abstractmethod
    def _body_came(self, incoming: IncomingBody) -> None:
        """More of the body is received."""

    @abstractmethod
    def _half_closed(self) -> None:
        """The client sends no more; the whole request has come, and the response can still be read."""

    @abstractmethod
    def _cut_short(self) -> None:
        """The client sends no more, and the rest of the body is missing."""

    @abstractmethod
    def _abandoned(self) -> None:
        """The server itself has answered."""

    @abstractmethod
    def disconnect(self) -> None:
        """The connection is lost."""

    @abstractmethod
    def give_up(self) -> None:
        """The server stops, and has waited long enough for the response."""

    def expire(self) -> None:
        """The body did not come in time."""
        self._connection.close()

    # The request

    @property
    def is_body_complete(self) -> bool:
        """Whether the whole request has come."""
        return self._incoming is None or self._incoming.decoder.is_complete

    @property
    def held_bytes(self) -> int:
        """Bytes of the body that wait to be served."""
        return 0 if self._incoming is None else len(self._incoming.received)

    def take_body(self) -> bool:
        """Take the body's bytes from the connection; implements `parse`."""
        connection, incoming, is_unread = self._connection, self._incoming, self._is_complete
        if incoming is None:
            return False
        if is_unread:
            incoming.drop_received()
        decoder = incoming.decoder
        room = _UNREAD_BODY_BYTES if is_unread else self._room(incoming)
        if decoder.is_complete or room <= 0:
            return False
        before = connection.unparsed
        if before:
            connection.parsed(decoder.feed(connection.data, connection.at, room, incoming.received))
            if not is_unread:
                self._body_came(incoming)
        if is_unread:
            self._drop(incoming)
        elif not self._is_complete and connection.at_end_of_input and not self.is_body_complete:
            self._end_input(before)
        return decoder.is_interrupted

    def _end_input(self, before: int) -> None:
        """Note that the body does not go on; what is not a whole line of its framing stays unparsed."""
        if self._connection.unparsed in {0, before}:
            self._cut_short()

    def _drop(self, incoming: IncomingBody) -> None:
        incoming.drop_received()
        if incoming.decoder.is_complete:
            self._http.finished(self)
        elif incoming.dropped > _UNREAD_BODY_BYTES:
            self._connection.close(linger=True)

    def end_of_input(self) -> None:
        """The client sends no more; what has come is still parsed."""
        if self.is_body_complete:
            self._half_closed()
        elif self._connection.unparsed:
            self._connection.work_soon()
        else:
            self._cut_short()

    # The response

    def cut_off(self, refusal: Refusal) -> None:
        """End the exchange with the refusal, if no other response has begun."""
        if self._is_complete:
            self._connection.close(linger=True)
        else:
            self._answer_instead(refusal)
            self._abandoned()

    def _answer_instead(self, refusal: Refusal) -> None:
        """Make up for a response that was not completed."""
        if self._is_complete or self._connection.is_closing:
            return
        self._is_complete = True
        self._connection.write(refusal.encoded(has_body=self.head.method != "HEAD"))
        self._connection.close(linger=True)

    def _end_of_head(self) -> bytes:
        """Decide whether the connection goes on; return the lines that say so, with the empty one."""
        self.keeps_alive = self.keeps_alive and self._stays_in_step() and not self._connection.server.is_stopping
        if not self.keeps_alive:
            return b"connection: close\r\n\r\n"
        return b"connection: keep-alive\r\n\r\n" if self.head.version == "1.0" else b"\r\n"

    def _stays_in_step(self) -> bool:
        """Whether the next request can be found, though the body of this one may not have been read."""
        incoming = self._incoming
        if incoming is None or incoming.decoder.is_complete:
            return True
        # A client that waits for 100 (Continue) may send the body all the same, or not (RFC 9110, 10.1.1).
        decoder = incoming.decoder
        is_long = isinstance(decoder, LengthBody) and decoder.remaining > _UNREAD_BODY_BYTES
        return not incoming.expects_continue and not is_long
