"""Operations on calls, the most frequent requests, without the framework's general machinery around them.

What is done with them is the route's own endpoint; dependencies, response models and a search through all routes, which
it does not use, are left out: they take more CPU than all that the operation takes itself.
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
    """An ASGI application before another: serves `POST` to a call by `operate`, and leaves all else to that one.

    `refusals` are the exceptions that `refuse` answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        operate: Operate,
        refuse: Refuse,
        refusals: tuple[type[Exception], ...],
    ) -> None:
        self.app = app
        # Counts and log lines name a request by its route.
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
    """The id of the call that a request operates on, if it is such a request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path: str = scope["path"]
    call_id = path.removeprefix(_BEFORE)
    return call_id if call_id and len(call_id) < len(path) and "/" not in call_id else None
