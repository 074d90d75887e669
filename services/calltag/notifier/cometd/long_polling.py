"""Long-polling: each request is an array of messages, and a connect waits for its answer.

Source: Bayeux protocol 1.0, section 7; requests as CometD's clients make them (JSON, or a form with `message`).
Events go with the answers of connects only: two answers under way at once could overtake each other.
"""

import asyncio
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from calltag.core.bayeux.codec import CodecError, decode, encode
from calltag.notifier.cometd.access import Access, claim_of
from calltag.notifier.cometd.bodies import BodyReader, TooSlow
from calltag.notifier.cometd.claim import Claim
from calltag.notifier.cometd.connects import Answer, HeldConnect
from calltag.notifier.cometd.hub import Hub, Turn

_JSON: Final = "application/json;charset=UTF-8"


async def long_poll(request: Request, hub: Hub, access: Access, bodies: BodyReader) -> Response:
    """Answer one request. Raises StoreUnavailable."""
    try:
        messages = decode(await bodies.read(request), hub.limits)
    except TooSlow as error:
        # What is left of the body would be taken for the next request.
        return Response(str(error), 400, {"Connection": "close"}, media_type="text/plain")
    except CodecError as error:
        hub.unreadable(error)
        return Response(str(error), 413 if error.too_large else 400, media_type="text/plain")
    claim = claim_of(messages, request, access)
    try:
        turn = await hub.exchange(messages, claim)
    finally:
        claim.drop()
    if turn.held is not None:
        answer = await _held(request, hub, turn.held)
        if answer is None:
            return _replaced()
        events, reply = answer
        turn.events += events
        turn.replies.append(reply)
    elif turn.replaced and not turn.replies:
        return _replaced()
    await hub.connects.saved(turn.connected)
    return _answer(turn, claim)


def _answer(turn: Turn, claim: Claim) -> Response:
    headers = {"Cache-Control": "no-store"}
    if claim.set_cookie:
        headers["Set-Cookie"] = claim.set_cookie
    return Response(encode(turn.events, turn.replies), headers=headers, media_type=_JSON)


def _replaced() -> Response:
    """A newer connect of the session took this one's place. Never 408: browsers repeat a request on that."""
    return Response("replaced by a newer /meta/connect", 500, media_type="text/plain")


async def _held(request: Request, hub: Hub, connect: HeldConnect) -> Answer | None:
    """Wait for the connect's answer, or for the client to go away; what was queued then stays queued."""
    waiting = asyncio.ensure_future(hub.connects.hold(connect))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        hub.connects.abandon(connect)
        raise ClientDisconnect
    finally:
        waiting.cancel()
        gone.cancel()
        await asyncio.gather(waiting, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
