"""Applications without redirects."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute


def routed(routes: Sequence[BaseRoute]) -> Starlette:
    """Return an application that does not redirect: behind a proxy, a redirect would lead to an internal address."""
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return app
