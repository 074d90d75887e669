"""Long-polling and WebSocket, each without any library for CometD."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, Protocol

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

JSON = dict[str, Any]
_ANSWER_S: Final = 7.0
_PATH: Final = "/genesys/cometd"
_PASSWORD: Final = "demo"


class Broken(Exception):
    """There is no answer; whether the message has come is not known."""


class Transport(Protocol):
    """Sends one message at a time; `name` is the connection type."""

    name: str
    stays: bool
    """Whether it keeps to one notifier for as long as that answers."""

    async def exchange(self, notifier: str, message: JSON) -> JSON:
        """The reply to a message; what else comes with it is given away. Raises Broken."""
        ...

    async def leave(self) -> None:
        """The next message may go to another notifier."""
        ...

    async def close(self) -> None: ...


class LongPolling:
    """Each message is a request of its own."""

    name = "long-polling"
    stays = False

    def __init__(self, user: str, take: Callable[[JSON], None]) -> None:
        self._user = user
        self._take = take
        self._http = httpx.AsyncClient(timeout=_ANSWER_S)

    async def exchange(self, notifier: str, message: JSON) -> JSON:
        begins = message["channel"] == "/meta/handshake"
        auth = httpx.BasicAuth(self._user, _PASSWORD) if begins else httpx.USE_CLIENT_DEFAULT
        try:
            response = await self._http.post(f"{notifier}{_PATH}", json=[message], auth=auth)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise Broken(type(error).__name__) from error
        *events, reply = response.json()
        for each in events:
            self._take(each)
        answered: JSON = reply
        return answered

    async def leave(self) -> None:
        pass

    async def close(self) -> None:
        await self._http.aclose()


class WebSocket:
    """One connection for as long as it lasts; who the user is, the handshake says."""

    name = "websocket"
    stays = True

    def __init__(self, user: str, take: Callable[[JSON], None]) -> None:
        self._user = user
        self._take = take
        self._socket: ClientConnection | None = None
        self._count = 0

    async def exchange(self, notifier: str, message: JSON) -> JSON:
        self._count += 1
        sent = {**message, "id": str(self._count)}
        if message["channel"] == "/meta/handshake":
            shown = {"authentication": {"user": self._user, "password": _PASSWORD}}
            sent["ext"] = {**message.get("ext", {}), **shown}
        try:
            async with asyncio.timeout(_ANSWER_S):
                if self._socket is None:
                    url = f"ws{notifier.removeprefix('http')}{_PATH}"
                    self._socket = await connect(url, ping_interval=None, max_size=None, close_timeout=0.2)
                await self._socket.send(json.dumps([sent]))
                return await self._reply(self._socket, sent["id"])
        except (WebSocketException, OSError, TimeoutError) as error:
            await self.close()
            raise Broken(type(error).__name__) from error

    async def _reply(self, socket: ClientConnection, message_id: str) -> JSON:
        while True:
            replies = [each for each in json.loads(await socket.recv()) if self._is_reply(each)]
            for each in replies:
                if each.get("id") == message_id:
                    answered: JSON = each
                    return answered

    def _is_reply(self, message: JSON) -> bool:
        if "data" in message:
            self._take(message)
        return "data" not in message

    async def leave(self) -> None:
        await self.close()

    async def close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()
