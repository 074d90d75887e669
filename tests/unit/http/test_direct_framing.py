"""Request framing holds for the direct path and for mixtures of both paths on one connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from calltag.core.http.direct import RequestHandler, RequestHead
from calltag.core.http.server import ServerOptions, bound_socket, serving
from calltag.core.process.tls import OwnCertificate, ServerTls
from parts.certificates import Authority
from parts.direct_handlers import READ_BODY, READ_PATH, Answering, application
from parts.endpoints import Endpoint
from parts.raw_http import REQUEST_ID, Address
from parts.request_checks import check_any, check_mutated, check_valid, differences
from parts.request_streams import SIZES, Stream, mutated, streams
from parts.request_table import ROWS, Row

NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""A wrong answer is often one that does not come: to shrink the stream would take minutes."""


def is_odd(head: RequestHead) -> bool:
    """Whether the last byte of the request's id is odd: about every second request."""
    return bool([value for name, value in head.headers if name == REQUEST_ID.encode() and value[-1:] and value[-1] & 1])


HANDLERS: dict[str, Callable[[], RequestHandler]] = {
    "at once": Answering,
    "later": lambda: Answering(later=True),
    "every second one": lambda: Answering(is_odd, later=True),
}
EACH = pytest.mark.parametrize("kind", HANDLERS)


@asynccontextmanager
async def endpoint_of(kind: str, options: ServerOptions | None = None) -> AsyncIterator[Endpoint]:
    listener = bound_socket("127.0.0.1", 0, "--port")
    async with serving(application, listener, drain_timeout_s=0, options=options, direct=HANDLERS[kind]()) as port:
        yield Endpoint(Address(port), READ_PATH, READ_BODY, 200)


@EACH
@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_each_request_is_answered_once_and_malformed_ones_are_refused(row: Row, kind: str) -> None:
    async with endpoint_of(kind) as endpoint:
        if found := await differences(row, endpoint):
            pytest.fail(f"{row.name} (RFC {row.rfc}):\n" + "\n".join(found), pytrace=False)


@pytest.mark.parametrize("kind", ["at once", "later"])
async def test_the_table_holds_over_tls(kind: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("server", "localhost")
    options = ServerOptions(tls=ServerTls(OwnCertificate(issued.cert, issued.key)))
    async with endpoint_of(kind, options) as plain:
        address = Address(plain.address.port, tls=ssl.create_default_context(cafile=authority.ca))
        for row in ROWS[::10]:
            assert not await differences(row, Endpoint(address, READ_PATH, READ_BODY, 200)), row.name


@EACH
@settings(max_examples=50, phases=NO_SHRINKING)
@given(stream=streams(), sizes=SIZES)
def test_valid_requests_are_answered_each_once_and_in_order(kind: str, stream: Stream, sizes: list[int]) -> None:
    async def check() -> None:
        async with endpoint_of(kind) as endpoint:
            await check_valid(endpoint, stream, sizes)

    asyncio.run(check())


@EACH
@settings(max_examples=50, phases=NO_SHRINKING)
@given(raw=mutated(), sizes=SIZES)
def test_malformed_streams_get_no_answer_too_many(kind: str, raw: bytes, sizes: list[int]) -> None:
    async def check() -> None:
        async with endpoint_of(kind) as endpoint:
            await check_mutated(endpoint, raw, sizes)

    asyncio.run(check())


@EACH
@settings(max_examples=25, phases=NO_SHRINKING)
@given(data=st.binary(max_size=2_000), sizes=SIZES)
def test_any_bytes_are_refused_or_waited_for(kind: str, data: bytes, sizes: list[int]) -> None:
    async def check() -> None:
        async with endpoint_of(kind) as endpoint:
            await check_any(endpoint, data, sizes)

    asyncio.run(check())
