"""Fast path for operations on calls, the most frequent requests, past the framework's routing.

It calls the route's own endpoint. Dependencies, response models and the search through all routes, which the endpoint
does not use, are left out: they take more CPU than the operation itself.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

PATH: Final = "/api/v2/me/calls/{call_id}"
_BEFORE: Final = PATH.partition("{")[0]
Operate = Callable[[Request, str], Awaitable[Response]]
Refuse = Callable[[Request, Exception], Awaitable[Response]]


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
        self._route = Route(PATH, operate, methods=["POST"])
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
    call_id = path.removeprefix(_BEFORE)
    return call_id if call_id and len(call_id) < len(path) and "/" not in call_id else None
