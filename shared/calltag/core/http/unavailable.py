"""HTTP 503 in the form of the API, for middleware and for the time before an application is ready."""

import orjson
from starlette.types import Message, Receive, Scope, Send

from calltag.core.domain.status import StatusCode


async def answer_unavailable(send: Send, text: str, *, retry_after_s: int = 1, close: bool = False) -> None:
    """Send the whole response, with Retry-After in seconds; `close` makes it the last one of the connection."""
    body = orjson.dumps({"statusCode": int(StatusCode.INTERNAL), "statusMessage": text})
    headers = [
        (b"content-type", b"application/json;charset=UTF-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"retry-after", str(retry_after_s).encode()),
        *([(b"connection", b"close")] if close else []),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class NotYet:
    """Placeholder application of a server that is not ready; it answers HTTP 503."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        async def send_by_websocket(message: Message) -> None:
            await send({**message, "type": f"websocket.{message['type']}"})

        await answer_unavailable(send if scope["type"] == "http" else send_by_websocket, self._text)
