"""Polling: each request is an array of messages, and a connect waits for its answer.

Source: Bayeux protocol 1.0, section 7; requests as CometD's clients make them (JSON, or a form with `message`).
Events go with the answers of connects, or with any where the session asks for it: two answers under way at once may
overtake each other.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from calltag.core.bayeux.channels import HANDSHAKE
from calltag.core.bayeux.codec import CodecError, Reply, decode, encode
from calltag.notifier.cometd.access import Access, claim_of
from calltag.notifier.cometd.answers import Answer, Gone, HeldConnect
from calltag.notifier.cometd.bodies import BodyReader, TooSlow
from calltag.notifier.cometd.browsers import Browsers, browser_of
from calltag.notifier.cometd.callback_polling import Pages, callback_of, messages_of_query, script
from calltag.notifier.cometd.claim import Claim
from calltag.notifier.cometd.delivery import Delivery
from calltag.notifier.cometd.hub import Hub

_JSON: Final = "application/json;charset=UTF-8"


async def long_poll(request: Request, hub: Hub, access: Access, bodies: BodyReader, browsers: Browsers) -> Response:
    """Answer one request. Raises StoreUnavailable."""
    try:
        messages = decode(await bodies.read(request), hub.limits)
    except TooSlow as error:
        # What is left of the body would be taken for the next request.
        return Response(str(error), 400, {"Connection": "close"}, media_type="text/plain")
    except CodecError as error:
        return _refused(hub, error)
    return await _exchanged(
        request, hub, messages, claim_of(messages, request, access), browsers=browsers, written=_json, delivers=True
    )


async def callback_poll(request: Request, hub: Hub, access: Access, pages: Pages, browsers: Browsers) -> Response:
    """Answer one request for a script. Raises StoreUnavailable."""
    try:
        name = callback_of(request)
        messages = decode(messages_of_query(request), hub.limits)
    except CodecError as error:
        return _refused(hub, error)
    claim = claim_of(messages, request, access, by_request=pages.are_known(request))
    return await _exchanged(
        request, hub, messages, claim, browsers=browsers, written=lambda content: script(name, content), delivers=False
    )


def _refused(hub: Hub, error: CodecError) -> Response:
    hub.unreadable(error)
    return Response(str(error), 413 if error.too_large else 400, media_type="text/plain")


def _json(content: bytes) -> Response:
    return Response(content, headers={"Cache-Control": "no-store"}, media_type=_JSON)


async def _exchanged(
    request: Request,
    hub: Hub,
    messages: Sequence[object],
    claim: Claim,
    *,
    browsers: Browsers,
    written: Callable[[bytes], Response],
    delivers: bool,
) -> Response:
    try:
        turn = await hub.exchange(messages, claim)
    finally:
        claim.drop()
    browser = browser_of(request)
    if turn.held is not None:
        answer = await _held(request, hub, turn.held, browsers, browser)
        if answer is None:
            return _replaced()
        events, reply = answer
        turn.events += events
        turn.replies.append(reply)
    elif turn.replaced:
        return _replaced()
    elif delivers and not turn.connected:
        turn.events += await Delivery(hub.connects).with_replies(turn.spoke)
    await hub.connects.answers.saved(turn.connected)
    response = written(encode(turn.events, turn.replies))
    if claim.set_cookie:
        response.headers.append("Set-Cookie", claim.set_cookie)
    if not browser and any(_begins(reply) for reply in turn.replies):
        response.headers.append("Set-Cookie", browsers.new_cookie())
    return response


def _begins(reply: Reply) -> bool:
    return reply.get("channel") == HANDSHAKE and reply.get("successful") is True


def _replaced() -> Response:
    """A newer connect of the session took this one's place. Never 408: browsers repeat a request on that."""
    return Response("replaced by a newer /meta/connect", 500, media_type="text/plain")


async def _held(request: Request, hub: Hub, connect: HeldConnect, browsers: Browsers, browser: str) -> Answer | None:
    """The connect's answer, for which it has to wait if the browser's other tabs let it."""
    with browsers.holding(browser, connect.session) as is_possible:
        if not is_possible:
            # The session lives on for as long as its client is asked to wait.
            connect.session.interval_ms = max(connect.session.interval_ms, browsers.interval_ms)
        answer = await _waited(request, hub, connect) if is_possible else hub.connects.answers.finish(connect)
    if answer is None:
        return None
    events, reply = answer
    return events, browsers.advise(connect.session, reply, is_possible=is_possible)


async def _waited(request: Request, hub: Hub, connect: HeldConnect) -> Answer | None:
    """Wait for the connect's answer, or for the client to go away; what was queued then stays queued."""
    gone = asyncio.ensure_future(_gone(request))
    try:
        return await hub.connects.answers.hold(connect, gone)
    except Gone:
        raise ClientDisconnect from None
    finally:
        gone.cancel()
        await asyncio.wait({gone})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
