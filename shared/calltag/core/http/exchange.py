"""One request and its response, by either kind of handler: flow control of the body, and keep-alive."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from calltag.core.http.refusals import Refusal
from calltag.core.http.request_parser import LengthBody, RequestHead, body_of

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection
    from calltag.core.http.http1 import Http1

_UNREAD_BODY_BYTES: Final = 65_536
"""Maximum bytes of an unread body that are dropped to keep the connection alive."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
FAILED: Final = Refusal(500, "the request was not answered because of an internal error")
CUT_OFF: Final = Refusal(
    503, "this server stopped before the request was answered; whether it took effect is not known", retry_after_s=1
)


class IncomingBody:
    """A body that is being received: the bytes that wait to be served, and the decoder of the rest."""

    __slots__ = ("decoder", "dropped", "expects_continue", "received")

    def __init__(self, head: RequestHead, max_framing_bytes: int) -> None:
        self.decoder = body_of(head, max_framing_bytes)
        self.received = bytearray()
        self.dropped = 0
        self.expects_continue = head.expects_continue

    def drop_received(self) -> None:
        """Drop the received bytes of a body that is not read."""
        self.dropped += len(self.received)
        self.received.clear()


class Exchange(ABC):
    """Base of exchanges; `_incoming` is None if the whole request was received."""

    __slots__ = ("_connection", "_http", "_incoming", "_is_complete", "head", "keeps_alive")

    def __init__(self, http: "Http1", connection: "Connection", head: RequestHead) -> None:
        self._http = http
        self._connection = connection
        self.head = head
        self._incoming: IncomingBody | None = None
        self._is_complete = False
        """The whole response is written."""
        self.keeps_alive = head.keep_alive
        """The connection stays open after the response."""

    # Hooks of the handlers

    @abstractmethod
    def _room(self, incoming: IncomingBody) -> int:
        """Return the number of bytes of the body that fit into the buffer."""

    @abstractmethod
    def _body_came(self, incoming: IncomingBody) -> None:
        """React to received bytes of the body."""

    @abstractmethod
    def _half_closed(self) -> None:
        """React to a client that has closed its sending side after the whole request, and can still read."""

    @abstractmethod
    def _cut_short(self) -> None:
        """React to the end of the input within the body."""

    @abstractmethod
    def _abandoned(self) -> None:
        """React to a response by the server itself."""

    @abstractmethod
    def disconnect(self) -> None:
        """React to the loss of the connection."""

    @abstractmethod
    def give_up(self) -> None:
        """React to the end of the server's drain timeout."""

    def expire(self) -> None:
        """React to a body that missed its deadline."""
        self._connection.close()

    # The request

    @property
    def is_body_complete(self) -> bool:
        """Return whether the whole request was received."""
        return self._incoming is None or self._incoming.decoder.is_complete

    @property
    def held_bytes(self) -> int:
        """Bytes of the body that wait to be served."""
        return 0 if self._incoming is None else len(self._incoming.received)

    def take_body(self) -> bool:
        """Consume the body's bytes of the connection; implements `parse`."""
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
        """Handle the end of the input within the body, once only an incomplete framing line is unparsed."""
        if self._connection.unparsed in {0, before}:
            self._cut_short()

    def _drop(self, incoming: IncomingBody) -> None:
        incoming.drop_received()
        if incoming.decoder.is_complete:
            self._http.finished(self)
        elif incoming.dropped > _UNREAD_BODY_BYTES:
            self._connection.close(linger=True)

    def end_of_input(self) -> None:
        """Handle the end of the input, after the received bytes are parsed."""
        if self.is_body_complete:
            self._half_closed()
        elif self._connection.unparsed:
            self._connection.work_soon()
        else:
            self._cut_short()

    # The response

    def cut_off(self, refusal: Refusal) -> None:
        """End the exchange with the refusal, unless another response has begun."""
        if self._is_complete:
            self._connection.close(linger=True)
        else:
            self._answer_instead(refusal)
            self._abandoned()

    def _answer_instead(self, refusal: Refusal) -> None:
        """Send the refusal in place of a response that was not completed, and close."""
        if self._is_complete or self._connection.is_closing:
            return
        self._is_complete = True
        self._connection.write(refusal.encoded(has_body=self.head.method != "HEAD"))
        self._connection.close(linger=True)

    def _end_of_head(self) -> bytes:
        """Decide on keep-alive; return the Connection field, if needed, and the empty line."""
        self.keeps_alive = self.keeps_alive and self._stays_in_step() and not self._connection.server.is_stopping
        if not self.keeps_alive:
            return b"connection: close\r\n\r\n"
        return b"connection: keep-alive\r\n\r\n" if self.head.version == "1.0" else b"\r\n"

    def _stays_in_step(self) -> bool:
        """Return whether the start of the next request can be found, even if the body of this one is unread."""
        incoming = self._incoming
        if incoming is None or incoming.decoder.is_complete:
            return True
        # A client that waits for 100 (Continue) may send the body nevertheless (RFC 9110, 10.1.1).
        decoder = incoming.decoder
        is_long = isinstance(decoder, LengthBody) and decoder.remaining > _UNREAD_BODY_BYTES
        return not incoming.expects_continue and not is_long
