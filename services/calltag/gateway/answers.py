"""Encoding of JSON responses."""

from collections.abc import Mapping

import orjson
from starlette.responses import Response


def answer(body: Mapping[str, object], http_status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response that no cache stores."""
    return Response(
        orjson.dumps(body),
        http_status,
        {"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json;charset=UTF-8",
    )
