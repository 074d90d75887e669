"""The naive notifier: `python -m bench.naive.notifier PORT`; WebSocket `/ws?token=`, long-polling `/poll?token=`."""

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import redis.asyncio
import uvicorn
from aio_pika.abc import AbstractIncomingMessage
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.naive.names import AMQP_URL, EVENTS, REDIS_URL, session_key

POLL_S = 30
sockets: dict[str, set[WebSocket]] = defaultdict(set)
polls: dict[str, set[asyncio.Queue[dict[str, Any]]]] = defaultdict(set)
store = redis.asyncio.Redis.from_url(REDIS_URL, decode_responses=True)


async def user_of(token: str) -> str | None:
    """Whose session it is."""
    user = await store.get(session_key(token))
    return None if user is None else str(user)


def message_of(event: dict[str, Any]) -> dict[str, Any]:
    """What a client is told."""
    return {
        "messageType": "CallStateChanged",
        "notificationType": "AttachedDataChanged",
        "call": {"id": event["call_id"], "version": event["version"], "userData": event["user_data"]},
    }


async def on_event(message: AbstractIncomingMessage) -> None:
    """Send an event to whoever it is for."""
    async with message.process():
        event = json.loads(message.body)
        for socket in list(sockets[event["user"]]):
            await socket.send_text(json.dumps(message_of(event)))
        for waiting in polls[event["user"]]:
            waiting.put_nowait(message_of(event))


async def websocket(socket: WebSocket) -> None:
    """Push events until the client goes."""
    user = await user_of(socket.query_params["token"])
    if user is None:
        await socket.close()
        return
    await socket.accept()
    sockets[user].add(socket)
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        sockets[user].discard(socket)


async def poll(request: Request) -> JSONResponse:
    """The next event, or none after a while."""
    user = await user_of(request.query_params["token"])
    if user is None:
        return JSONResponse({}, 401)
    waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    polls[user].add(waiting)
    try:
        return JSONResponse([await asyncio.wait_for(waiting.get(), POLL_S)])
    except TimeoutError:
        return JSONResponse([])
    finally:
        polls[user].discard(waiting)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Consume events for as long as the application runs."""
    connection = await aio_pika.connect_robust(AMQP_URL)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=100)
    exchange = await channel.declare_exchange(EVENTS, aio_pika.ExchangeType.FANOUT, durable=True)
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(exchange)
    await queue.consume(on_event)
    yield
    await connection.close()


app = Starlette(routes=[WebSocketRoute("/ws", websocket), Route("/poll", poll)], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
