"""Frames of a WebSocket are bounded by the server, before any application sees them."""

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from calltag.core.runtime.server import ServerLimits, bound_socket, serving

MOST = 1_000


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send every frame back."""
    assert scope["type"] == "websocket"
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "text": message["text"]})


async def test_a_frame_beyond_the_limit_ends_the_connection() -> None:
    limits = ServerLimits(max_websocket_message_bytes=MOST)
    async with serving(echo, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1, limits=limits) as port:
        async with connect(f"ws://127.0.0.1:{port}/") as socket:
            await socket.send("x" * MOST)
            assert await socket.recv() == "x" * MOST
            await socket.send("x" * (MOST + 1))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
