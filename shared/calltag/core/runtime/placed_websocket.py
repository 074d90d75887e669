"""WebSockets as uvicorn serves them, which give back the place of their connection."""

from typing import ClassVar

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from calltag.core.runtime.places import PLACE, Places


class PlacedWebSocket(WebSocketsSansIOProtocol):
    """Keeps the place that the connection took as HTTP."""

    places: ClassVar[Places | None] = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.places is not None:
            self.places.release(self.app_state[PLACE])
        super().connection_lost(exc)


def placed_websocket(places: Places | None) -> type[PlacedWebSocket]:
    """The protocol that gives back these places."""

    class Placed(PlacedWebSocket):
        pass

    Placed.places = places
    return Placed
