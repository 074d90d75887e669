"""WebSockets as uvicorn serves them, which give back the place of their connection, take frames as they are, and log
nothing of bad ones."""

from typing import Any, ClassVar, Final
from weakref import ref

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from calltag.core.runtime.corked import CorkedTransport
from calltag.core.runtime.frames import FRAME_WRITER, FrameWriter
from calltag.core.runtime.places import PLACE, Places

_INVALID_DATA: Final = 1007


class PlacedWebSocket(WebSocketsSansIOProtocol):
    """Keeps the place that the connection took as HTTP."""

    places: ClassVar[Places | None] = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.places is not None:
            self.places.release(self.app_state[PLACE])
        super().connection_lost(exc)

    def handle_connect(self, event: Request) -> None:
        self.app_state = {**self.app_state, FRAME_WRITER: _writer_of(self)}
        super().handle_connect(event)

    def write_frame(self, frame: bytes, *, one_of_many: bool = False) -> bool:
        """Write a whole frame, unless the connection is not open, its client is slow, or frames are compressed.

        What goes through ASGI is written in whole frames, too, so the two may take turns.
        """
        if (
            not self.handshake_complete
            or self.close_sent
            or self.disconnected
            or self.conn.extensions
            or not self.writable.is_set()
            or self.transport.is_closing()
        ):
            return False
        transport: Any = self.transport
        if one_of_many and isinstance(transport, CorkedTransport):
            transport.write_now(frame)
        else:
            transport.write(frame)
        return True

    def send_receive_event_to_app(self) -> None:
        """A text that is not UTF-8 ends the connection, as RFC 6455 says (8.1).

        Uvicorn would log a traceback of each: whoever can connect could fill the disk.
        """
        if self.handshake_complete:
            # Nobody asks for them any more, and connections stay for hours.
            shaken: Any = self
            shaken.request = shaken.response = None
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(_INVALID_DATA)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()


def _writer_of(socket: PlacedWebSocket) -> FrameWriter:
    """Its writer, which does not keep it: in a circle, what is over would stay until somebody looks for garbage."""
    found = ref(socket)

    def write(frame: bytes, *, one_of_many: bool = False) -> bool:
        there = found()
        return there is not None and there.write_frame(frame, one_of_many=one_of_many)

    return write


def placed_websocket(places: Places | None) -> type[PlacedWebSocket]:
    """The protocol that gives back these places."""

    class Placed(PlacedWebSocket):
        pass

    Placed.places = places
    return Placed
