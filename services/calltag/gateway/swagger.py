"""The page at /docs: Swagger UI, all of it from this server, so that it works in a network without a way out."""

from typing import Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PAGE: Final = "/docs"
_FILES: Final = "/docs/files"
_PACKAGE: Final = ("fastapi_swagger", "resources")
"""Where the files of Swagger UI's distribution are; the package's own code is not used."""


def add_swagger(app: FastAPI) -> None:
    """Serve the page for the app's OpenAPI document."""
    page = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=app.title,
        swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{_FILES}/favicon-32x32.png",
        # Else Swagger UI sends the document's address to a validator of its makers'.
        swagger_ui_parameters={"validatorUrl": "none"},
    )
    app.mount(_FILES, StaticFiles(packages=[_PACKAGE]))

    @app.get(PAGE, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page
