"""The answer to a request that is cut off when the time to drain is over, before it was answered."""

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calltag.core.runtime.unavailable import answer_unavailable

_TEXT: Final = "this server stops before the request was answered; whether it took effect is not known"


def with_last_answer(app: ASGIApp) -> ASGIApp:
    """The application, which answers a request with HTTP 503, in the form of the API, where the server cancels it.

    Where the answer has begun, it is cut off where it is. Without this, uvicorn would write a text and status 500.
    """

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await app(scope, receive, noting)
        except asyncio.CancelledError:
            if begun:
                raise
            await answer_unavailable(send, _TEXT, close=True)

    return answering
