"""The ASGI layers around the routes: addresses, metrics and log lines of requests, and the fast path of operations."""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from inspect import signature
from typing import Final, get_args
from urllib.parse import parse_qsl

import structlog
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calltag.core.http.metrics import HttpMetrics
from calltag.gateway.requests import IGNORED_HEADER, ignored_header
from calltag.gateway.resources import answer

_METHODS: Final = ("DELETE", "GET", "PATCH", "POST", "PUT")
log = structlog.get_logger()
_root_logger: Final = logging.getLogger()
"""The root logger, whose level is the log level."""
_MAX_ROUTES: Final = 256
_FIRST_ERROR_STATUS: Final = 400
_FAILED_BODY: Final = {"statusCode": 4, "statusMessage": "internal error"}
CALL_PATH: Final = "/api/v2/me/calls/{call_id}"
_BEFORE_CALL_ID: Final = CALL_PATH.partition("{")[0]
Operate = Callable[[Request, str], Awaitable[Response]]
Refuse = Callable[[Request, Exception], Awaitable[Response]]


def as_served(scope: Scope) -> Scope:
    """Return the request as routes know it: HEAD becomes GET (the server omits the body), without a trailing slash."""
    path: str = scope["path"]
    if scope["method"] != "HEAD" and (len(path) == 1 or path[-1:] != "/"):
        return scope
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return {**scope, "method": method, "path": path if path == "/" else path.removesuffix("/")}


def allow(request: Request) -> str:
    """Return the value of the Allow header: all methods that the address serves."""
    routes: list[BaseRoute] = request.app.routes
    served = {"OPTIONS"}
    for method in _METHODS:
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in routes):
            served.add(method)
    if "GET" in served:
        served.add("HEAD")
    return ", ".join(sorted(served))


class Finishing:
    """ASGI application around another: completes its responses, and answers its unexpected exceptions.

    `state` of the request has `headers`, those of the response, and may have `set_cookie`, a value of Set-Cookie.
    """

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, scope = scope["method"], as_served(scope)
        state = scope.setdefault("state", {})
        state["headers"] = {}
        began, status, complete = time.perf_counter(), 0, False

        async def finish(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                if ignored := _ignored(scope):
                    state["headers"][IGNORED_HEADER] = ignored_header(ignored)
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
        self._metrics.answered(route, status, seconds)
        # A log line costs as much as half of a successful request, which is therefore only counted. The level is
        # checked first, because even a call that logs nothing creates a logger.
        if status < _FIRST_ERROR_STATUS and not _root_logger.isEnabledFor(logging.DEBUG):
            return
        write_log = log.info if status >= _FIRST_ERROR_STATUS else log.debug
        write_log("request", method=method, route=route, status=status, ms=round(seconds * 1000, 1))


def failed() -> Response:
    """Return the response to a request that caused an unexpected exception."""
    return answer(_FAILED_BODY, 500)


def route_of(scope: Scope) -> str:
    """Return the route's pattern, since addresses have too many values for a label."""
    return getattr(scope.get("route"), "path", "") or "none"


def _ignored(scope: Scope) -> list[str]:
    """Return the parameters of a request, in its body and its query, that have no effect."""
    names: list[str] = scope["state"].get("ignored", [])
    endpoint = getattr(scope.get("route"), "endpoint", None)
    if not scope["query_string"] or endpoint is None:
        return names
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return [*names, *(name for name, _ in query if name not in _query_names(endpoint))]


@lru_cache(_MAX_ROUTES)
def _query_names(endpoint: Callable[..., object]) -> frozenset[str]:
    """Return the names of the query parameters of a route."""
    names = set[str]()
    for parameter in signature(endpoint).parameters.values():
        # Those of the query are annotated; the others are the request, and parts of its path.
        for model in get_args(parameter.annotation)[:1]:
            if isinstance(model, type) and issubclass(model, BaseModel):
                names |= {field.alias or name for name, field in model.model_fields.items()}
            else:
                names.add(parameter.name)
    return frozenset(names)


def _add_headers(state: Scope, message: Message) -> None:
    # Appended as bytes: the framework's headers would search all for each of these, which no response has of its own.
    headers: list[tuple[bytes, bytes]] = message["headers"]
    headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in state["headers"].items()]
    if cookie := state.get("set_cookie"):
        headers.append((b"set-cookie", cookie.encode("latin-1")))


class Direct:
    """ASGI application in front of another: serves `POST` to a call by `operate`, and passes other requests on.

    `refuse` turns the exceptions in `refusals` into responses.
    """

    def __init__(
        self,
        app: ASGIApp,
        operate: Operate,
        refuse: Refuse,
        refusals: tuple[type[Exception], ...],
    ) -> None:
        self.app = app
        # Metrics and log lines name a request by its route.
        self._route = Route(CALL_PATH, operate, methods=["POST"])
        self._operate = operate
        self._refuse = refuse
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call_id = _call_of(scope)
        if call_id is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = self._route
        request = Request(scope, receive, send)
        try:
            response = await self._operate(request, call_id)
        except self._refusals as error:
            response = await self._refuse(request, error)
        await response(scope, receive, send)


def _call_of(scope: Scope) -> str | None:
    """Return the id of the call that a request operates on; None for other requests."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path: str = scope["path"]
    call_id = path.removeprefix(_BEFORE_CALL_ID)
    return call_id if call_id and len(call_id) < len(path) and "/" not in call_id else None
