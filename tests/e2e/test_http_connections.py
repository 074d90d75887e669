"""The life of a connection: interim answers, half-close, unread bodies, deadlines, and places."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from parts.certificates import Authority
from parts.endpoints import BODY_BYTES, Endpoint, gateway_endpoint, notifier_endpoint
from parts.eventually import eventually
from parts.raw_http import Address, Connection, chunked, connection, get, head
from parts.system import System, embedded_system

WITHIN_S = 15.0
ESTABLISHED, CLOSE_WAIT = "01", "08"
"""States in /proc/net/tcp."""
BOTH = pytest.mark.parametrize("endpoint", ["gateway", "notifier"], indirect=True)
ALL = pytest.mark.parametrize("endpoint", ["gateway", "notifier", "tls"], indirect=True)
READ = b"POST <read> HTTP/1.1\r\nHost: a\r\n<login>\r\nX-Request-Id: a\r\n"
SHORT = {
    "CALLTAG_HTTP__HEAD_DEADLINE_S": "1",
    "CALLTAG_HTTP__WRITE_STALL_S": "1",
    "CALLTAG_HTTP__CLOSE_DEADLINE_S": "1",
    "CALLTAG_HTTP__KEEP_ALIVE_S": "2",
    "CALLTAG_BODY_DEADLINE_S": "1",
}
FEW = {
    "CALLTAG_MAX_CONNECTIONS": "8",
    "CALLTAG_HTTP__MAX_CONNECTIONS_PER_ADDRESS": "4",
    "CALLTAG_TRUSTED_PROXIES": "127.0.0.81",
}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """All in one process, with deadlines of a second."""
    with embedded_system(tmp_path_factory.mktemp("short"), **SHORT) as running:
        yield running


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """All in one process, with few places."""
    with embedded_system(tmp_path_factory.mktemp("few"), **FEW) as running:
        yield running


@contextmanager
def over_tls(folder: Path, settings: dict[str, str]) -> Iterator[Endpoint]:
    authority = Authority(folder)
    issued = authority.issue("calltag", "localhost")
    files = {"CALLTAG_TLS__CERT_FILE": str(issued.cert), "CALLTAG_TLS__KEY_FILE": str(issued.key)}
    with embedded_system(folder / "system", **settings, **files) as running:
        yield notifier_endpoint(running, ssl.create_default_context(cafile=str(authority.ca)))


@pytest.fixture(scope="module")
def short_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with over_tls(tmp_path_factory.mktemp("short-tls"), SHORT) as served:
        yield served


@pytest.fixture(scope="module")
def few_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with over_tls(tmp_path_factory.mktemp("few-tls"), FEW) as served:
        yield served


def refusals(system: System) -> float:
    """Refused requests and connections by /metrics of the process, of all limits."""
    port = system.programs["serve"].environment["CALLTAG_INTERNAL__PORT"]
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", verify=False).text
    return sum(
        each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.name == "calltag_http_refused_total"
    )


async def is_served(opened: Connection, request_id: str) -> bool:
    before = len(await opened.final(0, 0))
    await opened.send([get(request_id)])
    return [each.id for each in (await opened.final(before + 1, WITHIN_S))[before:]] == [request_id]


@ALL
async def test_100_continue_comes_before_the_body(endpoint: Endpoint) -> None:
    async with connection(endpoint.address) as opened:
        await opened.send([endpoint.filled(READ + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES)])
        assert await opened.statuses(1, WITHIN_S) == [100], f"no 100 before the body: {[*map(str, opened.answers)]}"
        await opened.send([endpoint.body])
        assert [each.status for each in await opened.final(1, WITHIN_S)] == [endpoint.status]
        assert await is_served(opened, "b"), "the connection is not in step"


@ALL
async def test_100_continue_comes_before_chunks(endpoint: Endpoint) -> None:
    async with connection(endpoint.address) as opened:
        await opened.send([endpoint.filled(READ + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")])
        assert await opened.statuses(1, WITHIN_S) == [100], f"no 100 before the body: {[*map(str, opened.answers)]}"
        await opened.send([chunked(endpoint.body)])
        assert [each.status for each in await opened.final(1, WITHIN_S)] == [endpoint.status]


@BOTH
async def test_a_body_that_is_refused_before_it_comes_is_not_asked_for(endpoint: Endpoint) -> None:
    """RFC 9110 10.1.1: the final answer instead of 100; the client may leave out the body, and so the close follows."""
    async with connection(endpoint.address) as opened:
        expects = head("POST /nowhere HTTP/1.1", "Host: a", "X-Request-Id: a", "Expect: 100-continue",
                       "Content-Length: 1000000")  # fmt: skip
        await opened.send([expects])
        answers = await opened.final(1, WITHIN_S)
        assert [each.status for each in opened.answers] == [404], [*map(str, answers)]


@BOTH
@pytest.mark.parametrize(
    "requests",
    [[get("a")], [get("a"), get("b"), get("c")], [b"READ"], [get("a"), b"READ"]],
    ids=["a request", "pipelined requests", "a request with a body", "a request behind another"],
)
async def test_a_half_closed_client_gets_its_answers_and_then_the_close(
    endpoint: Endpoint, requests: list[bytes]
) -> None:
    whole = READ + b"Content-Length: %d\r\n\r\n<body>" % BODY_BYTES
    async with connection(endpoint.address) as opened:
        await opened.send([endpoint.filled(b"".join(requests).replace(b"READ", whole))])
        opened.writer.write_eof()
        assert await opened.closes(WITHIN_S), "the connection was left open"
        told = [*map(str, opened.answers)]
        assert len(await opened.final(0, 0)) == len(requests), f"answers: {told}"
        assert not opened.reset, f"reset instead of closed, after {told}"


@BOTH
async def test_a_half_closed_client_with_half_a_request_is_closed(endpoint: Endpoint) -> None:
    async with connection(endpoint.address) as opened:
        await opened.send([b"GET /nowhere HTTP/1.1\r\nHost: a\r\n"])
        opened.writer.write_eof()
        assert await opened.closes(5.0), "half a request holds a connection whose client has gone"
        assert {each.status for each in opened.answers} <= {400, 408}


@ALL
@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
async def test_the_answer_arrives_though_a_large_body_is_not_read(endpoint: Endpoint, framing: str) -> None:
    """The client sends all before it looks; then the connection is closed, or in step."""
    body = b"x" * 2_000_000
    lines = ("POST /nowhere HTTP/1.1", "Host: a", "X-Request-Id: a")
    if framing == "chunked":
        raw = head(*lines, "Transfer-Encoding: chunked") + chunked(*[body[:50_000]] * 40)
    else:
        raw = head(*lines, f"Content-Length: {len(body)}") + body
    async with connection(endpoint.address) as opened:
        await opened.send([raw])
        assert [each.status for each in await opened.final(1, WITHIN_S)] == [404]
        await opened.send([get("b")])
        answers = await opened.final(2, WITHIN_S)
        assert opened.closed or [each.id for each in answers] == ["a", "b"], [*map(str, answers)]


@ALL
async def test_requests_that_come_together_are_answered_one_after_another(endpoint: Endpoint) -> None:
    """A slow answer holds the ones behind it, and nothing is lost."""
    count = 300
    async with connection(endpoint.address) as opened:
        await opened.send([b"".join(get(f"r{number}") for number in range(count))])
        answers = await opened.final(count, 4 * WITHIN_S)
        assert [each.id for each in answers] == [f"r{number}" for number in range(count)]


async def ends(address: Address, sent: bytes, within_s: float) -> list[int] | None:
    """The statuses that come before the close; None if it does not come."""
    async with connection(address) as opened:
        await opened.send([sent])
        if not await opened.closes(within_s):
            return None
        return [each.status for each in opened.answers]


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /nowhere", b"GET /nowhere HTTP/1.1\r\nHost: a\r\n", b"\r\n\r\n", b"G"],
    ids=["nothing", "half a line", "half a head", "empty lines", "a byte"],
)
async def test_a_head_has_a_deadline(short: System, sent: bytes) -> None:
    got = await ends(gateway_endpoint(short).address, sent, WITHIN_S)
    assert got in ([], [408]), f"wanted 408 or the close; got {got}"


async def test_a_head_that_comes_slowly_has_the_same_deadline(short: System) -> None:
    async with connection(gateway_endpoint(short).address) as opened:
        await opened.send([b"GET /nowhere HTTP/1.1\r\nHost: a\r\n"])
        for _ in range(int(WITHIN_S / 0.2)):
            await opened.send([b"X: y\r\n"])
            if await opened.closes(0.2):
                return
        pytest.fail("a head that takes longer than the deadline is waited for")


async def test_a_second_head_has_a_deadline_from_its_first_byte_on(short: System) -> None:
    async with connection(gateway_endpoint(short).address) as opened:
        assert await is_served(opened, "a")
        await opened.send([b"GET /nowhere HTTP/1.1\r\n"])
        assert await opened.closes(WITHIN_S)
        assert [each.status for each in opened.answers] in ([404], [404, 408])


async def test_a_body_that_comes_slowly_has_a_deadline(short: System) -> None:
    endpoint = notifier_endpoint(short)
    async with connection(endpoint.address) as opened:
        await opened.send([endpoint.filled(READ + b"Content-Length: 1000\r\n\r\n[")])
        answers = await opened.final(1, WITHIN_S)
        assert [each.status for each in answers] in ([400], [408]), [*map(str, answers)]
        assert await opened.closes(WITHIN_S), "the connection is not in step and was left open"


async def test_an_idle_connection_is_closed_without_an_answer(short: System) -> None:
    async with connection(gateway_endpoint(short).address) as opened:
        assert await is_served(opened, "a")
        assert await opened.closes(WITHIN_S)
        assert [each.status for each in opened.answers] == [404]
        assert not opened.reset


@pytest.mark.parametrize("requests", [1, 8], ids=["one answer", "pipelined answers"])
async def test_a_client_that_never_reads_an_answer_loses_its_connection(short: System, requests: int) -> None:
    port = gateway_endpoint(short).address.port
    raw = head("GET /docs/files/swagger-ui-bundle.js HTTP/1.1", "Host: a") * requests
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        opened.settimeout(5)
        opened.connect(("127.0.0.1", port))
        own = opened.getsockname()[1]
        opened.sendall(raw)
        for _ in range(int(WITHIN_S / 0.1)):
            if own not in established(port):
                return
            await asyncio.sleep(0.1)
    pytest.fail("a connection whose client never reads is held")


def established(port: int) -> list[int]:
    """The clients' ports of the connections that the process at this port has not closed, by the kernel's table."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        int(remote.partition(":")[2], 16)
        for _, local, remote, state, *_ in lines
        if local.endswith(f":{port:04X}") and state in {ESTABLISHED, CLOSE_WAIT}
    ]


async def port_without_connections(system: System) -> int:
    """The port, once what was connected before has been closed by both sides."""
    port = gateway_endpoint(system).address.port
    await eventually(lambda: not established(port))
    return port


@pytest.mark.parametrize(
    "sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["nothing", "half a hello"]
)
async def test_a_tls_handshake_has_the_deadline_of_a_head(short_tls: Endpoint, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", short_tls.address.port)
    writer.write(sent)
    try:
        async with asyncio.timeout(WITHIN_S):
            # An alert may come before the close.
            while await reader.read(1_000):
                pass
    except TimeoutError:
        pytest.fail("a TLS handshake that does not end is waited for")
    except ConnectionError:
        pass
    finally:
        writer.close()


async def held(stack: AsyncExitStack, address: Address, count: int) -> list[Connection]:
    """So many connections, each with one answer."""
    opened = [await stack.enter_async_context(connection(address)) for _ in range(count)]
    for each in opened:
        assert await is_served(each, "a")
    return opened


async def refused_at_once(address: Address) -> list[str]:
    """Return the differences from a refusal by 503 with Retry-After and the close."""
    async with connection(address) as opened:
        await opened.send([get("beyond")])
        if not await opened.closes(WITHIN_S):
            return ["it was left open"]
        answers = opened.answers
    wrong = [] if [each.status for each in answers] == [503] else [f"answers {[*map(str, answers)]}"]
    return wrong + [f"no Retry-After: {each.fields}" for each in answers if "retry-after" not in each.fields]


async def test_one_address_gets_its_places_and_another_its_own(few: System) -> None:
    port = await port_without_connections(few)
    one, two = (Address(port, source=f"127.0.0.{number}") for number in (21, 22))
    before = refusals(few)
    async with AsyncExitStack() as stack:
        await held(stack, one, 4)
        assert await refused_at_once(one) == []
        await held(stack, two, 1)
        assert refusals(few) > before, "the refusal is not counted in calltag_http_refused_total"


async def test_all_places_are_counted_from_the_accept_on(few: System) -> None:
    """Connections that send nothing count as well; 503 with Retry-After for the one beyond."""
    port = await port_without_connections(few)
    async with AsyncExitStack() as stack:
        for number in range(8):
            await stack.enter_async_context(connection(Address(port, source=f"127.0.0.{31 + number // 4}")))
        assert await refused_at_once(Address(port, source="127.0.0.41")) == []


async def test_a_trusted_proxy_is_not_counted_as_an_address(few: System) -> None:
    port = await port_without_connections(few)
    async with AsyncExitStack() as stack:
        await held(stack, Address(port, source="127.0.0.81"), 6)


async def test_a_place_is_free_again_after_the_close(few: System) -> None:
    address = Address(gateway_endpoint(few).address.port, source="127.0.0.51")
    for _ in range(20):
        async with connection(address) as opened:
            assert await is_served(opened, "a")


async def test_connections_in_a_tls_handshake_have_places(few_tls: Endpoint) -> None:
    """A ninth connection gets nothing, rather than a descriptor."""
    async with AsyncExitStack() as stack:
        for number in range(8):
            source = f"127.0.0.{61 + number // 4}"
            await stack.enter_async_context(connection(Address(few_tls.address.port, source=source)))
        reader, writer = await asyncio.open_connection("127.0.0.1", few_tls.address.port, local_addr=("127.0.0.71", 0))
        try:
            async with asyncio.timeout(5):
                got = await reader.read(1_000)
        except TimeoutError:
            pytest.fail("a connection beyond the places is accepted, and waited for as the others are")
        except ConnectionError:
            got = b""
        finally:
            writer.close()
    assert got == b"" or got.startswith((b"\x15", b"HTTP/1.1 503")), got


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /nowhere HTTP/1.1\r\n\r\n",
        b"BREW /nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /nowhere HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 250 + b"\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: a\r\n",
        b"POST /genesys/cometd HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ],
    ids=["no Host", "method", "version", "large head", "many fields", "slow head", "chunk"],
)
async def test_each_refusal_is_counted(short: System, sent: bytes) -> None:
    before = refusals(short)
    assert await ends(gateway_endpoint(short).address, sent, WITHIN_S) is not None, "the connection was left open"
    assert refusals(short) > before, "calltag_http_refused_total has not risen"


async def test_a_refusal_names_no_bytes_of_the_request(short: System) -> None:
    secret = "s3cretvalue"
    async with connection(gateway_endpoint(short).address) as opened:
        await opened.send([f"GET /{secret} HTTP/1.1\r\nHost: a\r\nX-{secret} : {secret}\r\n\r\n".encode()])
        assert await opened.closes(WITHIN_S)
        assert [each.status for each in opened.answers] == [400]
        assert secret.encode() not in opened.answers[0].body
    assert secret not in short.logs(), "bytes of a malformed request are in the log"
