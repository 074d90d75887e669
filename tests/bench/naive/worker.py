"""The naive worker: `python -m bench.naive.worker`."""

import asyncio
import json

import aio_pika
import redis.asyncio
import uvloop
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage
from redis.commands.core import AsyncScript

from bench.naive.names import AMQP_URL, EVENTS, QUEUE_ARGUMENTS, QUEUES, REDIS_URL, call_key

SCRIPT = """
if not redis.call('SET', KEYS[2], 1, 'NX', 'EX', 3600) then
  return false
end
local data = cjson.decode(redis.call('HGET', KEYS[1], 'data') or '{}')
for key, value in pairs(cjson.decode(ARGV[2])) do
  if ARGV[1] == 'DeleteUserData' then
    data[key] = nil
  elseif ARGV[1] == 'AttachUserData' and data[key] then
    table.insert(data[key], value)
  else
    data[key] = {value}
  end
end
local encoded = cjson.encode(data)
redis.call('HSET', KEYS[1], 'data', encoded)
return {redis.call('HINCRBY', KEYS[1], 'version', 1), encoded}
"""


class Worker:
    """Applies operations, one after another in each queue."""

    def __init__(self, script: AsyncScript, events: AbstractExchange) -> None:
        self._script = script
        self._events = events

    async def on_message(self, message: AbstractIncomingMessage) -> None:
        """Apply, publish the event, acknowledge."""
        operation = json.loads(message.body)
        keys = [call_key(operation["call_id"]), f"naive:done:{operation['id']}"]
        applied = await self._script(keys=keys, args=[operation["name"], json.dumps(operation["user_data"])])
        if applied:
            version, data = applied
            event = {
                "id": operation["id"],
                "user": operation["user"],
                "call_id": operation["call_id"],
                "version": version,
                "user_data": json.loads(data),
                "accepted_at": operation["accepted_at"],
            }
            await self._events.publish(aio_pika.Message(json.dumps(event).encode()), routing_key="")
        await message.ack()


async def main() -> None:
    """Work until the process is ended."""
    store = redis.asyncio.Redis.from_url(REDIS_URL)
    connection = await aio_pika.connect_robust(AMQP_URL)
    channel = await connection.channel(publisher_confirms=True)
    events = await channel.declare_exchange(EVENTS, aio_pika.ExchangeType.FANOUT, durable=True)
    worker = Worker(store.register_script(SCRIPT), events)
    for name in QUEUES:
        reading = await connection.channel(publisher_confirms=False)
        await reading.set_qos(prefetch_count=100)
        queue = await reading.declare_queue(name, durable=True, arguments=dict(QUEUE_ARGUMENTS))
        turn = asyncio.Lock()

        async def in_order(message: AbstractIncomingMessage, turn: asyncio.Lock = turn) -> None:
            async with turn:
                await worker.on_message(message)

        await queue.consume(in_order)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
