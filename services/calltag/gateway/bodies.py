"""Reading of request bodies within size, depth and time limits."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request

from calltag.core.domain.user_data import JsonValue
from calltag.core.strict_json import JsonLimits, JsonRefused, TooManyValues, parse
from calltag.gateway.errors import OutOfRange
from calltag.gateway.parameters import Body

_JSON_TYPES: Final = ("application/json", "text/json")


@dataclass(frozen=True, slots=True)
class ReadBody:
    """A parsed body, and its bytes as received."""

    json: JsonValue
    raw: bytes

    def as_object(self) -> Body:
        """Return the body as a JSON object. Raises OutOfRange."""
        if not isinstance(self.json, dict):
            raise OutOfRange("the body must be a JSON object")
        return self.json


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Reads JSON bodies within `limits`, each within `deadline_s` seconds."""

    limits: JsonLimits = field(default_factory=JsonLimits)
    deadline_s: float = 10.0

    async def read(self, request: Request) -> ReadBody:
        """Read and parse the body of a request.

        Raises OutOfRange: HTTP status 408 for a body too slow, 413 for one too large, 415 for another type.
        """
        content_type = (request.headers.get("content-type") or _JSON_TYPES[0]).partition(";")[0].strip().lower()
        if content_type not in _JSON_TYPES:
            raise OutOfRange("the body must be JSON: send Content-Type: application/json", http_status=415)
        raw = await self._in_time(request)
        try:
            return ReadBody(parse(raw, self.limits), raw)
        except TooManyValues as refused:
            raise OutOfRange(f"{refused}; send it in several requests (CALLTAG_GATEWAY__MAX_VALUES)") from None
        except JsonRefused as refused:
            raise OutOfRange(str(refused)) from None

    async def _in_time(self, request: Request) -> bytes:
        try:
            async with asyncio.timeout(self.deadline_s):
                return await self._bounded(request)
        except TimeoutError:
            raise OutOfRange(
                f"the body did not come within {self.deadline_s:g} s (CALLTAG_BODY_DEADLINE_S)",
                http_status=408,
                # The rest of the body would be parsed as the next request.
                headers={"Connection": "close"},
            ) from None

    async def _bounded(self, request: Request) -> bytes:
        """Read the body, no further than the limit."""
        most = self.limits.max_bytes
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)
        body, more = bytearray(), True
        while more:
            # Cheaper than the framework's stream: nearly every body arrives in one message.
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise OutOfRange("the client left before its request was complete")
            body += message.get("body", b"")
            if len(body) > most:
                raise _too_large(most)
            more = message.get("more_body", False)
        return bytes(body)


def _too_large(most: int) -> OutOfRange:
    return OutOfRange(f"the body is larger than {most} bytes", http_status=413)
