"""WebSockets that are compressed, where the operator and the client want it."""

import json
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import PerMessageDeflate

from parts.system import System, embedded_system

HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]}
ALICE = {"Authorization": "Basic YWxpY2U6ZGVtbw=="}


@pytest.fixture(scope="module")
def compressing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {"CALLTAG_NOTIFIER__PERMESSAGE_DEFLATE": "true", "CALLTAG_NOTIFIER__MAX_BODY_BYTES": "2000"}
    with embedded_system(tmp_path_factory.mktemp("compressing"), **settings) as running:
        yield running


def opened(system: System, compression: str | None = "deflate") -> connect:
    url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    return connect(url, additional_headers=ALICE, compression=compression)


def is_compressed(socket: ClientConnection) -> bool:
    return any(isinstance(each, PerMessageDeflate) for each in socket.protocol.extensions)


async def shake(socket: ClientConnection) -> bool:
    await socket.send(json.dumps([HELLO]))
    return bool(json.loads(await socket.recv())[0]["successful"])


async def test_who_offers_compression_gets_it_where_it_is_on(compressing: System) -> None:
    async with opened(compressing) as socket, opened(compressing, None) as plain:
        assert (is_compressed(socket), is_compressed(plain)) == (True, False)
        assert await shake(socket)
        assert await shake(plain)


async def test_a_message_is_as_large_as_its_text(compressing: System) -> None:
    async with opened(compressing) as socket:
        await socket.send("[" + " " * 2_100 + "]")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_without_the_setting_nothing_is_compressed(system: System) -> None:
    async with opened(system) as socket:
        assert not is_compressed(socket)
        assert await shake(socket)
