"""HTTP 503 in the form of the API, from what stands before an application or around it."""

import orjson
from starlette.types import Send

from calltag.core.domain.status import StatusCode


async def answer_unavailable(send: Send, text: str, *, retry_after_s: int = 1, close: bool = False) -> None:
    """The whole answer: why, and in how many seconds to try again; with `close` it is the connection's last one."""
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
