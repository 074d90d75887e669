"""Rules of addresses and methods, the same for all routes (RFC 9110, sections 9.3 and 10.2.1)."""

from typing import Final

from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

_METHODS: Final = ("DELETE", "GET", "PATCH", "POST", "PUT")


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
