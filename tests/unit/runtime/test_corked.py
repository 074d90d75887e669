"""One write for all that is written in one turn of the loop, and nothing lost where a connection ends."""

import asyncio
import socket
from typing import Any, cast

import pytest

from calltag.core.runtime.corked import CorkedTransport


class Behind(asyncio.Transport):
    """Notes what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def write_eof(self) -> None:
        self.done.append("eof")

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 100


@pytest.fixture
async def corked() -> tuple[CorkedTransport, list[Any]]:
    behind = Behind()
    return CorkedTransport(behind, asyncio.get_running_loop().call_soon), behind.done


Corked = tuple[CorkedTransport, list[Any]]


async def test_what_is_written_in_one_turn_goes_out_in_one_write(corked: Corked) -> None:
    transport, done = corked
    transport.write(b"head")
    transport.write(b"")
    transport.writelines([b"bo", b"dy"])
    assert done == []
    assert transport.get_write_buffer_size() == 108
    await asyncio.sleep(0)
    assert done == [b"headbody"]
    transport.write(b"next")
    await asyncio.sleep(0)
    assert done == [b"headbody", b"next"]


async def test_what_is_written_now_goes_out_now_and_after_what_waits(corked: Corked) -> None:
    transport, done = corked
    transport.write_now(b"first")
    assert done == [b"first"]
    transport.write(b"second")
    transport.write_now(b"third")
    assert done == [b"first", b"second", b"third"]
    await asyncio.sleep(0)
    assert done == [b"first", b"second", b"third"]


async def test_closing_writes_what_waits_before(corked: Corked) -> None:
    transport, done = corked
    transport.write(b"last")
    transport.close()
    await asyncio.sleep(0)
    assert done == [b"last", "close"]


async def test_half_closing_writes_what_waits_before(corked: Corked) -> None:
    transport, done = corked
    transport.write(b"last")
    transport.write_eof()
    assert done == [b"last", "eof"]


async def test_aborting_drops_what_waits(corked: Corked) -> None:
    transport, done = corked
    transport.write(b"lost")
    transport.abort()
    await asyncio.sleep(0)
    assert done == ["abort"]


async def test_much_does_not_wait_for_the_loop_to_turn(corked: Corked) -> None:
    transport, done = corked
    for _ in range(3):
        transport.write(b"x" * 40_000)
    assert list(map(len, done)) == [80_000]
    assert transport.get_write_buffer_size() == 40_100
    await asyncio.sleep(0)
    assert list(map(len, done)) == [80_000, 40_000]
    transport.write(b"next")
    await asyncio.sleep(0)
    assert done[2:] == [b"next"]


async def test_what_waits_when_a_connection_is_lost_is_dropped() -> None:
    behind = Behind()
    transport = CorkedTransport(behind, asyncio.get_running_loop().call_soon)
    transport.write(b"lost")
    behind.closing = True
    await asyncio.sleep(0)
    assert behind.done == []


class Corking(asyncio.Protocol):
    """Writes in the very turn of the loop in which its connection is lost."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        behind = cast("asyncio.Transport", transport)
        behind.abort()
        loop = asyncio.get_running_loop()
        loop.call_soon(CorkedTransport(behind, loop.call_soon).write, b"lost")


def test_a_connection_that_is_lost_is_no_error_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    errors: list[dict[str, Any]] = []

    async def lose() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        server = await loop.create_server(Corking, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            await asyncio.sleep(0.05)
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(lose())
    assert errors == []
