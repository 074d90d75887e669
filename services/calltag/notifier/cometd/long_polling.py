"""Polling: each request is an array of messages, and a connect waits for its answer.

Source: Bayeux protocol 1.0, section 7; requests as CometD's clients make them (JSON, or a form with `message`).
Events go with the answers of connects, or with any where the session asks for it: two answers under way at once may
overtake each other.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from calltag.core.bayeux.answer_budget import AnswerBudget
from calltag.core.bayeux.channels import HANDSHAKE
from calltag.core.bayeux.codec import CodecError, Reply, decode, encode
from calltag.notifier.cometd.access import Access, claim_of
from calltag.notifier.cometd.answers import Answer, Gone, HeldConnect
from calltag.notifier.cometd.bodies import BodyReader, TooSlow
from calltag.notifier.cometd.browsers import Browsers, browser_of
from calltag.notifier.cometd.callback_polling import Pages, callback_of, messages_of_query, script, script_bytes
from calltag.notifier.cometd.claim import Claim
from calltag.notifier.cometd.delivery import Delivery
from calltag.notifier.cometd.hub import Hub, Turn

_JSON: Final = "application/json;charset=UTF-8"


async def long_poll(request: Request, hub: Hub, access: Access, bodies: BodyReader, browsers: Browsers) -> Response:
    """Answer one request. Raises StoreUnavailable."""
    try:
        turn, set_cookie = await _exchanged(
            hub,
            await bodies.read(request),
            lambda messages: claim_of(messages, request, access),
            AnswerBudget(hub.limits.max_answer_bytes),
        )
    except TooSlow as error:
        # What is left of the body would be taken for the next request.
        return Response(str(error), 400, {"Connection": "close"}, media_type="text/plain")
    except CodecError as error:
        return _refused(hub, error)
    answer = await _answered(request, hub, turn, browsers, delivers=True)
    return _replaced() if answer is None else _with_cookies(request, _json(answer), turn, browsers, set_cookie)


async def callback_poll(request: Request, hub: Hub, access: Access, pages: Pages, browsers: Browsers) -> Response:
    """Answer one request for a script. Raises StoreUnavailable."""
    try:
        name = callback_of(request)
        turn, set_cookie = await _exchanged(
            hub,
            messages_of_query(request),
            lambda messages: claim_of(messages, request, access, by_request=pages.are_known(request)),
            AnswerBudget(hub.limits.max_answer_bytes, script_bytes),
        )
    except CodecError as error:
        return _refused(hub, error)
    answer = await _answered(request, hub, turn, browsers, delivers=False)
    return _replaced() if answer is None else _with_cookies(request, script(name, answer), turn, browsers, set_cookie)


def _refused(hub: Hub, error: CodecError) -> Response:
    hub.unreadable(error)
    return Response(str(error), 413 if error.too_large else 400, media_type="text/plain")


def _json(content: bytes) -> Response:
    return Response(content, headers={"Cache-Control": "no-store"}, media_type=_JSON)


async def _exchanged(
    hub: Hub, text: bytes, claim_for: Callable[[Sequence[object]], Claim], budget: AnswerBudget
) -> tuple[Turn, str | None]:
    """The turn that follows from a request, and a cookie to set.

    The request is kept no longer than that: a connect may be held for minutes. Raises CodecError.
    """
    messages = decode(text, hub.limits)
    claim = claim_for(messages)
    try:
        return await hub.exchange(messages, claim, budget.reserve(len(text), len(messages))), claim.set_cookie
    finally:
        claim.drop()


async def _answered(request: Request, hub: Hub, turn: Turn, browsers: Browsers, *, delivers: bool) -> bytes | None:
    """The answer, once it is time for it; None where a newer connect took this one's place."""
    if turn.held is not None:
        answer = await _held(request, hub, turn.held, browsers, browser_of(request))
        if answer is None:
            return None
        events, reply = answer
        turn.events += events
        turn.replies.append(reply)
    elif turn.replaced:
        return None
    elif delivers and not turn.connected:
        turn.events += await Delivery(hub.connects).with_replies(turn.spoke, turn.budget)
    await hub.connects.answers.saved(turn.connected)
    return encode(turn.events, turn.replies)


def _with_cookies(
    request: Request, response: Response, turn: Turn, browsers: Browsers, set_cookie: str | None
) -> Response:
    if set_cookie:
        response.headers.append("Set-Cookie", set_cookie)
    if not browser_of(request) and any(_begins(reply) for reply in turn.replies):
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
    """Wait for the connect's answer, or for the end of what the client sends; what was queued then stays queued.

    The client may still read: it is asked to connect again. To one that has disconnected, nothing is sent.
    """
    gone = asyncio.ensure_future(_gone(request))
    try:
        return await hub.connects.answers.hold(connect, gone)
    except Gone:
        return [], hub.connects.answers.overtaken(connect)
    finally:
        gone.cancel()
        await asyncio.wait({gone})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
