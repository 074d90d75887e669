"""What a live call takes in Redis: `python -m bench.call_memory --calls 2000 --pairs 10`.

Starts a Redis of its own, keeps that many live calls of one agent each with so many pairs of user data, the way the
worker does, and prints used_memory, divided by the calls, and MEMORY USAGE of the keys of one.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from calltag.core.broker.ports import partition_of
from calltag.core.contracts.operations import EVENT
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import CallChanged, NotificationType
from calltag.core.domain.ids import CallId, ConnId, DeviceId, EventId, OperationId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import UserData
from calltag.core.store.calls import RedisCallStore
from calltag.core.store.client import RedisClient, redis_client
from calltag.core.store.event_log import Addition, RedisEventLog
from calltag.core.store.keys import Keys
from calltag.core.store.ports import Change, Done
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.workers import RedisCallIndex
from parts.redis_server import RedisServer
from parts.store_commands import library

KEYS = Keys()
PARTITIONS = 32
VALUE = "a value of twenty by"


def call(number: int, pairs: int) -> Call:
    leg = Leg(str(20_000 + number), LegState.ESTABLISHED, DeviceId(f"device-{number}"), UserId(f"agent-{number}"))
    data = UserData({f"attribute-{pair}": (VALUE,) for pair in range(pairs)})
    return Call(CallId(f"{number:032d}"), ConnId(f"{number:016x}"), CallType.INBOUND, "800", 0, (leg,), data, 1)


class Kept:
    """Keeps calls, with one operation and one event each."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._store = RedisCallStore(client, KEYS)
        self._index = RedisCallIndex(client, KEYS)
        self._streams = RedisEventLog(client, ScriptBatcher(client), KEYS)

    async def keep(self, made: Call) -> None:
        partition = partition_of(made.id, PARTITIONS)
        epoch = (await self._store.take_over(partition)).epoch
        done = ((OperationId(f"{made.id}"), Done(StatusCode.SUCCESS, 1)),)
        event = CallChanged(EventId(made.id), NotificationType.STATUS_CHANGE, made, made.users(), 0)
        await self._store.commit(partition, epoch, [Change(f"call:{made.id}", None, made, done)], [])
        await self._index.update([made])
        addition = Addition(f"call:{made.id}", 1, EVENT.encode(event))
        await self._streams.append({user: [addition] for user in made.users()})

    async def used_bytes(self) -> int:
        memory = await library(self._client).info("memory")
        return int(memory["used_memory"])

    async def usage_bytes(self, made: Call) -> dict[str, int]:
        """MEMORY USAGE of the keys of a call and of what its agent has."""
        state = KEYS.state(partition_of(made.id, PARTITIONS), f"call:{made.id}")
        [user] = made.users()
        names = {
            "call": state.state,
            "user data": state.data,
            "operations": state.done,
            "their order": state.order,
            "events of the agent": KEYS.stream_of(user),
            "calls of the agent": KEYS.calls_of(user),
            "last event": KEYS.added_to(user, f"call:{made.id}"),
        }
        usage = {what: await library(self._client).memory_usage(name) for what, name in names.items()}
        return {what: int(size or 0) for what, size in usage.items()}


async def measured(url: str, calls: int, pairs: int) -> tuple[float, dict[str, int]]:
    """Bytes for each call, and of the keys of one."""
    client = redis_client(url, deadline_s=10)
    try:
        kept = Kept(client)
        # What is there once: scripts, connections, the keys of the partitions.
        for number in range(200):
            await kept.keep(call(number, pairs))
        before = await kept.used_bytes()
        for number in range(200, 200 + calls):
            await kept.keep(call(number, pairs))
        return (await kept.used_bytes() - before) / calls, await kept.usage_bytes(call(200, pairs))
    finally:
        await client.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="call_memory", description=__doc__)
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--pairs", type=int, nargs="+", default=[0, 10, 50])
    given = parser.parse_args()
    for pairs in given.pairs:
        with tempfile.TemporaryDirectory(prefix="calltag-bench-") as folder:
            server = RedisServer(Path(folder))
            server.start()
            try:
                each, of_one = asyncio.run(measured(server.url, given.calls, pairs))
            finally:
                server.process.kill()
        parts = ", ".join(f"{name} {size}" for name, size in of_one.items())
        print(f"{pairs} pairs: {each:.0f} bytes a live call ({parts})")


if __name__ == "__main__":
    main()
