"""Applications that serve what they have, and send nobody elsewhere."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute


def routed(routes: Sequence[BaseRoute]) -> Starlette:
    """An application without redirections, which would lead to the address that the server has inside."""
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return app
