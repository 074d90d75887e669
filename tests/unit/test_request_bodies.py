"""Bodies of requests are read no further than the limit, whatever the client says of their length."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message

from calltag.core.strict_json import JsonLimits
from calltag.gateway.errors import OutOfRange
from calltag.gateway.requests import BodyReader
from parts.both_in_process import both_in_process

LIMIT = 10


class Endless:
    """A body that goes on and on, a byte in each chunk; it counts those that were read."""

    def __init__(self) -> None:
        self.read = 0

    async def __call__(self) -> Message:
        self.read += 1
        assert self.read < 100 * LIMIT
        return {"type": "http.request", "body": b" ", "more_body": True}

    def request(self, headers: Mapping[str, str] | None = None) -> Request:
        encoded = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        return Request({"type": "http", "method": "POST", "path": "/", "headers": encoded}, self)


@pytest.mark.parametrize("length", [None, "5", "-1", "none"])
async def test_the_api_reads_no_further_than_the_limit(length: str | None) -> None:
    body = Endless()
    with pytest.raises(OutOfRange, match="larger than 10 bytes") as refused:
        await BodyReader(JsonLimits(LIMIT)).read(body.request({"content-length": length} if length else None))
    assert refused.value.http_status == 413
    assert body.read <= LIMIT + 1


@pytest.mark.parametrize("length", [LIMIT + 1, 10**30])
async def test_the_api_reads_nothing_of_a_body_that_says_it_is_too_large(length: int) -> None:
    body = Endless()
    with pytest.raises(OutOfRange) as refused:
        await BodyReader(JsonLimits(LIMIT)).read(body.request({"content-length": str(length)}))
    assert (refused.value.http_status, body.read) == (413, 0)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("", 200),
        ("application/json", 200),
        ("Application/JSON ; Charset=UTF-8", 200),
        ("text/json;q", 200),
        ("text/plain", 415),
        ("application/jsonp", 415),
        (";", 415),
    ],
)
async def test_the_type_of_a_body_is_compared_without_case_and_parameters(kind: str, status: int) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"[1]", "more_body": False}

    headers = [(b"content-type", kind.encode())]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    try:
        got = 200 if (await BodyReader().read(request)).json == [1] else 0
    except OutOfRange as refused:
        got = refused.http_status
    assert got == status


async def test_a_body_of_too_many_values_is_told_the_limit() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"[1,2,3]", "more_body": False}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    with pytest.raises(OutOfRange) as refused:
        await BodyReader(JsonLimits(max_values=2)).read(request)
    assert refused.value.http_status == 400
    assert str(refused.value) == (
        "the text has more than 2 values; send it in several requests (CALLTAG_GATEWAY__MAX_VALUES)"
    )


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 11", b""),
        ("Content-Length: 1" + 17 * "0", b""),
        ("Transfer-Encoding: chunked", 11 * b"1\r\n \r\n"),
    ],
)
async def test_cometd_reads_no_further_than_the_limit(tmp_path: Path, framing: str, body: bytes) -> None:
    """It refuses a body that goes on without waiting for its end, or for any of it where its length is said."""
    async with both_in_process(tmp_path, notifier={"max_body_bytes": LIMIT}) as centre:
        reader, writer = await asyncio.open_connection("127.0.0.1", centre.http.base_url.port)
        writer.write(f"POST /genesys/cometd/connect HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        text = b"the request is larger than 10 bytes (CALLTAG_NOTIFIER__MAX_BODY_BYTES)"
        assert (head.split()[1], await reader.readexactly(len(text))) == (b"413", text)
        writer.close()
        assert (
            centre.backends.metrics.registry.get_sample_value(
                "calltag_cometd_limited_total", {"limit": "max_body_bytes"}
            )
            == 1
        )
