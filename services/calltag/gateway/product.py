"""Routes that identify the server to clients and people: product and version."""

from fastapi import APIRouter
from starlette.responses import Response

from calltag.core import VERSION
from calltag.gateway.resources import answer
from calltag.gateway.swagger import PAGE


def product_routes() -> APIRouter:
    """Return `GET /` and `GET /api/v2/diagnostics/version`, which need no login.

    Source: clients of Web Services request the version to check that the server is reachable.
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
