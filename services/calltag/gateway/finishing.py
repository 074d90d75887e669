"""Outermost layer of the API: normalizes the address, adds headers of the session, logs and counts requests.

Plain ASGI: a framework's middleware would cost as much CPU as the whole operation.
"""

import logging
import time
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calltag.gateway.addresses import as_served
from calltag.gateway.answers import answer
from calltag.gateway.observations import GatewayObservations

log = structlog.get_logger()
_root: Final = logging.getLogger()
"""The root logger, whose level is the log level."""
_WRONG: Final = 400
_FAILED: Final = {"statusCode": 4, "statusMessage": "internal error"}


class Finishing:
    """ASGI application around another: completes its responses, and answers its unexpected exceptions.

    `state` of the request may have `set_cookie`, a value of Set-Cookie, and `csrf_headers`.
    """

    def __init__(self, app: ASGIApp, observations: GatewayObservations) -> None:
        self.app = app
        self._observations = observations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, scope = scope["method"], as_served(scope)
        state = scope.setdefault("state", {})
        began, status, complete = time.perf_counter(), 0, False

        async def finish(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(state, message)
            elif not message.get("more_body"):
                complete = True
            await send(message)

        try:
            await self.app(scope, receive, finish)
        except Exception:
            log.exception("request_failed", route=route_of(scope))
            if status and not complete:
                # A response that has begun can only be aborted.
                raise
            if not status:
                await failed()(scope, receive, finish)
        finally:
            if status:
                self._record(method, route_of(scope), status, time.perf_counter() - began)

    def _record(self, method: str, route: str, status: int, seconds: float) -> None:
        self._observations.answered(route, status, seconds)
        # A log line costs as much as half of a successful request, which is therefore only counted. The level is
        # checked first, because even a call that logs nothing creates a logger.
        if status < _WRONG and not _root.isEnabledFor(logging.DEBUG):
            return
        write_log = log.info if status >= _WRONG else log.debug
        write_log("request", method=method, route=route, status=status, ms=round(seconds * 1000, 1))


def failed() -> Response:
    """Return the response to a request that caused an unexpected exception."""
    return answer(_FAILED, 500)


def route_of(scope: Scope) -> str:
    """Return the route's pattern, since addresses have too many values for a label."""
    return getattr(scope.get("route"), "path", "") or "none"


def _add_headers(state: Scope, message: Message) -> None:
    cookie, csrf = state.get("set_cookie"), state.get("csrf_headers")
    if cookie or csrf:
        headers = MutableHeaders(scope=message)
        if cookie:
            headers.append("Set-Cookie", cookie)
        headers.update(csrf or {})
