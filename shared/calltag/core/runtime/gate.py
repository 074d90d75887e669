"""The gate before an application: what serves clients listens from the beginning, and lets them in when it can."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calltag.core.runtime.places import PLACE, Places
from calltag.core.runtime.unavailable import answer_unavailable

_NOT_YET: Final = "calltag waits for its store; try again in a moment"
_POLICY_VIOLATION: Final = 1008


class Gate:
    """Lets requests through to `app` as soon as there is one, on as many connections as `max_connections` says.

    Others get HTTP 503 with Retry-After, in the form of the API; WebSockets are not accepted. `closing` makes every
    answer the last one of its connection: a balancer that keeps connections then finds none closed under its feet.
    """

    def __init__(self, max_connections: int) -> None:
        self.app: ASGIApp | None = None
        self.max_connections = max_connections
        self.closing = False
        self.places = Places(max_connections)
        """Who is served; the server gives the places, to idle connections too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is None:
            await _refuse(_NOT_YET, scope, send)
        elif not self._has_place(scope):
            text = f"{self.max_connections} connections are served here already; try again in a moment"
            await _refuse(text, scope, send, close=True)
        else:
            await self.app(scope, receive, self._closing(send) if scope["type"] == "http" else send)

    def _closing(self, send: Send) -> Send:
        async def send_and_close(message: Message) -> None:
            if self.closing and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        return send_and_close

    def _has_place(self, scope: Scope) -> bool:
        connection = scope.get("state", {}).get(PLACE)
        return connection is None or self.places.take(connection)


async def _refuse(text: str, scope: Scope, send: Send, *, close: bool = False) -> None:
    if scope["type"] == "websocket":
        # Before it is accepted, a close is an HTTP 403.
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": text})
        return
    await answer_unavailable(send, text, close=close)
