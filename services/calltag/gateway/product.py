"""Routes that identify the server to clients and people: product, version, and the documentation in a browser."""

import base64
import re
from hashlib import sha256
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from calltag.core import VERSION
from calltag.core.http.scope import COMETD_PATHS
from calltag.gateway.documentation import VERSION_PATH, VersionAnswer
from calltag.gateway.resources import answer

DOCS_PAGE: Final = "/docs"
_DOCS_FILES: Final = "/docs/files"
_SWAGGER_PACKAGE: Final = ("fastapi_swagger", "resources")
"""Location of Swagger UI's distribution files; the package's own code is not used."""
_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_DOCS_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; font-src data:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src 'self'"
)
"""Swagger UI needs inline styles, and images and fonts embedded as data URLs."""


_LINKS: Final = {
    "documentation": DOCS_PAGE,
    "api": "/api/v2/me",
    "openapi": "/openapi.json",
    "cometd": COMETD_PATHS[0],
}
_INDEX_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Not cached, as the same address has JSON for programs."""
_INDEX: Final = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>calltag</title></head>
<body>
<h1>calltag {VERSION}</h1>
<p>Attached data of live calls, with the API of Genesys Web Services v2.</p>
<ul>
<li><a href="{DOCS_PAGE}">Documentation of the API</a>, with requests to try</li>
<li><a href="/openapi.json">The same for machines</a> (OpenAPI)</li>
<li><a href="/api/v2/me">The user who is signed in</a></li>
<li><code>{COMETD_PATHS[0]}</code>: messages over CometD</li>
</ul>
</body>
</html>
"""


def product_routes() -> APIRouter:
    """Return `GET /` and `GET /api/v2/diagnostics/version`, which need no login.

    Source: clients of Web Services request the version to check that the server is reachable.
    """
    router = APIRouter()
    version = {"statusCode": 0, "version": VERSION}

    @router.get("/", include_in_schema=False)
    async def product(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_INDEX, headers=_INDEX_HEADERS)
        return answer({**version, "name": "calltag", "links": _LINKS})

    @router.get(
        VERSION_PATH,
        tags=["diagnostics"],
        operation_id="getVersion",
        summary="The version of the server",
        responses={200: {"model": VersionAnswer, "description": str(VersionAnswer.__doc__)}},
    )
    async def show_version() -> Response:
        return answer(version)

    return router


def add_swagger(app: FastAPI) -> None:
    """Serve the page for the app's OpenAPI document."""
    page = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=app.title,
        swagger_js_url=f"{_DOCS_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_DOCS_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{_DOCS_FILES}/favicon-32x32.png",
        # Otherwise Swagger UI sends the document's address to an external validator.
        swagger_ui_parameters={"validatorUrl": "none"},
    )
    page.headers["Content-Security-Policy"] = f"{_DOCS_POLICY} {_hashes(bytes(page.body).decode())}"
    files = StaticFiles(packages=[_SWAGGER_PACKAGE])

    @app.get(DOCS_PAGE, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page

    # A route, because a mount would serve all methods.
    @app.get(f"{_DOCS_FILES}/{{name}}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        return await files.get_response(name, request.scope)


def _hashes(page: str) -> str:
    """Return the page's inline scripts as policy sources; injected scripts do not run."""
    digests = (sha256(script.encode()).digest() for script in _SCRIPT.findall(page))
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
