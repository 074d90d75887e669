"""What clients and people ask of a server that they do not know: what it is, and which version."""

from fastapi import APIRouter
from starlette.responses import Response

from calltag.core import VERSION
from calltag.gateway.answers import answer
from calltag.gateway.swagger import PAGE


def product_routes() -> APIRouter:
    """`GET /` and `GET /api/v2/diagnostics/version`; both need no login.

    Source: clients of Web Services ask for the version to see whether the server is there.
    """
    router = APIRouter()
    version = {"statusCode": 0, "version": VERSION}

    @router.get("/", include_in_schema=False)
    async def product() -> Response:
        links = {"documentation": PAGE, "api": "/api/v2/me", "openapi": "/openapi.json", "cometd": "/genesys/cometd"}
        return answer({**version, "name": "calltag", "links": links})

    @router.get("/api/v2/diagnostics/version", tags=["diagnostics"], summary="The version of the server")
    async def show_version() -> Response:
        return answer(version)

    return router
