"""Long-polling: each request is an array of messages, and a connect waits for its answer.

Source: Bayeux protocol 1.0, section 7; requests as CometD's clients make them (JSON, or a form with `message`).
Events go with the answers of connects only: two answers under way at once could overtake each other.
"""

import asyncio
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from calltag.core.bayeux.codec import CodecError, Reply, decode, encode
from calltag.core.bayeux.session import Held, Session
from calltag.notifier.cometd.access import Access, Login, caller_of
from calltag.notifier.cometd.hub import Hub

_FORM: Final = "application/x-www-form-urlencoded"


class BayeuxResponse(Response):
    """An answer; once it was written, or could not be, the session's time to show up again begins."""

    media_type = "application/json;charset=UTF-8"

    def __init__(self, hub: Hub, body: bytes, session: Session | None, login: Login | None) -> None:
        headers = {"Cache-Control": "no-store"}
        if login is not None and login.set_cookie:
            headers["Set-Cookie"] = login.set_cookie
        super().__init__(body, headers=headers)
        self._hub = hub
        self._session = session
        self._cycle = session.cycle if session else 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._session is not None:
                self._hub.answered(self._session, self._cycle)


async def long_poll(request: Request, hub: Hub, access: Access) -> Response:
    """Answer one request. Raises StoreUnavailable."""
    try:
        messages = decode(await _text(request, hub.limits.max_body_bytes), hub.limits)
    except CodecError as error:
        return Response(str(error), 413 if error.too_large else 400, media_type="text/plain")
    caller, login = await caller_of(messages, await access.of_request(request), access, streaming=False)
    turn = await hub.exchange(messages, caller)
    if turn.held is None:
        return _answer(hub, login, turn.replies, turn.events_of)
    session, held = turn.held
    reply = hub.engine.finish(session, held) if hub.draining else await _held(request, hub, session, held)
    if reply is None:
        # A newer connect of the session took this one's place. Never 408: browsers repeat a request on that.
        return Response("replaced by a newer /meta/connect", 500, media_type="text/plain")
    return _answer(hub, login, [*turn.replies, reply], session)


def _answer(hub: Hub, login: Login | None, replies: list[Reply], session: Session | None) -> Response:
    return BayeuxResponse(hub, encode(session.take() if session else [], replies), session, login)


async def _held(request: Request, hub: Hub, session: Session, held: Held) -> Reply | None:
    """Wait for the connect's answer, or for the client to go away; what was queued then stays queued."""
    waiting = asyncio.ensure_future(hub.hold(session, held))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if hub.engine.finish(session, held) is not None:
            hub.answered(session, held.cycle)
        raise ClientDisconnect
    finally:
        waiting.cancel()
        gone.cancel()
        await asyncio.gather(waiting, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _text(request: Request, most: int) -> bytes:
    """The JSON of the request: its body, or the `message` fields of a form. Raises CodecError."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise CodecError(f"the request is larger than {most} bytes", too_large=True)
        chunks.append(chunk)
    body = b"".join(chunks)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return body
    fields = parse_qs(body, max_num_fields=100).get(b"message", [])
    if not fields:
        raise CodecError("the form has no field named message")
    parts = [field.strip() for field in fields]
    inner = [part[1:-1] if part.startswith(b"[") and part.endswith(b"]") else part for part in parts]
    return b"[" + b",".join(part for part in inner if part.strip()) + b"]"
