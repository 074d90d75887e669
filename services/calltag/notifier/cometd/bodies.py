"""Reading the body of a CometD request under limits."""

import asyncio
from dataclasses import dataclass

from starlette.requests import Request

from calltag.core.bayeux.codec import CodecError
from calltag.notifier.cometd.forms import FORM, messages_of_form


class TooSlow(CodecError):
    """The body did not come in time."""


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Reads bodies of `max_bytes` at most, no longer than `deadline_s` seconds each."""

    max_bytes: int
    deadline_s: float

    async def read(self, request: Request) -> bytes:
        """The JSON of the request: the `message` fields of a form, else its body, whatever type it is said to be of.

        Raises CodecError.
        """
        try:
            async with asyncio.timeout(self.deadline_s):
                body = await self._bounded(request)
        except TimeoutError:
            text = f"the request did not come within {self.deadline_s:g} s (CALLTAG_BODY_DEADLINE_S)"
            raise TooSlow(text) from None
        is_form = request.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM
        return messages_of_form(body) if is_form else body

    async def _bounded(self, request: Request) -> bytes:
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self.max_bytes:
                raise CodecError(f"the request is larger than {self.max_bytes} bytes", limit="max_body_bytes")
            chunks.append(chunk)
        return b"".join(chunks)
