"""The naive gateway: `python -m bench.naive.gateway PORT`."""

import json
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import aio_pika
import redis.asyncio
import uvicorn
from fastapi import Cookie, FastAPI, HTTPException, Request
from pydantic import BaseModel

from bench.naive.names import AMQP_URL, QUEUE_ARGUMENTS, QUEUES, REDIS_URL, call_key, queue_of, session_key


class OperationBody(BaseModel):
    """What a client sends."""

    operationName: Literal["AttachUserData", "UpdateUserData", "DeleteUserData"]  # noqa: N815 - the field's own name
    userData: dict[str, Any]  # noqa: N815 - the field's own name


class Answer(BaseModel):
    """What it gets."""

    statusCode: int = 0  # noqa: N815 - the field's own name


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connections for as long as the application runs."""
    connection = await aio_pika.connect_robust(AMQP_URL)
    channel = await connection.channel(publisher_confirms=True)
    for queue in QUEUES:
        await channel.declare_queue(queue, durable=True, arguments=dict(QUEUE_ARGUMENTS))
    app.state.exchange = channel.default_exchange
    app.state.redis = redis.asyncio.Redis.from_url(REDIS_URL, decode_responses=True, max_connections=1_000)
    yield
    await app.state.redis.aclose()
    await connection.close()


app = FastAPI(lifespan=lifespan)


@app.post("/api/v2/me/calls/{call_id}")
async def operate(
    request: Request, call_id: str, body: OperationBody, JSESSIONID: Annotated[str, Cookie()]  # noqa: N803
) -> Answer:  # fmt: skip
    """Accept an operation on a call of the user's."""
    store = request.app.state.redis
    user = await store.get(session_key(JSESSIONID))
    if user is None:
        raise HTTPException(401)
    call = await store.hgetall(call_key(call_id))
    if not call:
        raise HTTPException(404)
    if call["user"] != user:
        raise HTTPException(403)
    operation = {
        "id": uuid.uuid4().hex,
        "call_id": call_id,
        "user": user,
        "name": body.operationName,
        "user_data": body.userData,
        "accepted_at": time.time(),
    }
    message = aio_pika.Message(
        json.dumps(operation).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT, content_type="application/json"
    )
    await request.app.state.exchange.publish(message, routing_key=queue_of(call_id))
    return Answer()


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
