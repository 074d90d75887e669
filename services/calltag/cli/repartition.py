"""Work of `calltag repartition`: move an installation that does not run to another number of partitions.

State is copied to the keys of its new partition, then removed from those of the old one, a call or agent at a time.
The number is recorded at the end. Until then the installation has a schema of its own, so that no process starts on it;
after an interruption the command continues where it was.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, cast

from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity

from calltag.core.backends import amqp_settings, open_client
from calltag.core.broker.ports import BrokerUnavailable, Partition, hash_tag, partition_of
from calltag.core.broker.rabbitmq import apply_topology
from calltag.core.broker.rabbitmq.connection import connect
from calltag.core.broker.rabbitmq.topology import Topology
from calltag.core.domain.ids import partition_key
from calltag.core.settings import Settings
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.keys import Keys, StateKeys
from calltag.core.store.processes import RedisProcesses
from calltag.core.store.workers import SCHEMA, RedisWorkerRegistry, read_installation

_MOVING: Final = "moving to"
_PAGE: Final = 500
_BROKER_DEADLINE_S: Final = 30.0
_SHOW_EVERY: Final = 1_000


class NotAtRest(Exception):
    """The installation runs, or has work that is not done; the message says what to do first."""


class Repartition:
    """Moves the installation of the settings to `partitions`. Every method may raise StoreUnavailable."""

    def __init__(self, client: RedisClient, settings: Settings, partitions: int) -> None:
        self._client = client
        self._settings = settings
        self._keys = Keys(settings.redis.key_prefix)
        self._partitions = partitions
        self._name = re.compile(rf"{re.escape(self._keys.prefix)}:\{{(p\d+)\}}:((?:call|agent):.+)", re.DOTALL)

    async def run(self, progress: Callable[[str], None]) -> int:
        """Move everything, and return the number of calls and agents that were moved.

        `progress` takes lines for the operator. Raises NotAtRest, BrokerUnavailable.
        """
        former = await self._former()
        await self._require_rest(former)
        await self._require_empty_queues(former)
        schema = f"{_MOVING} {self._partitions}"
        await self._client.execute("HSET", self._keys.installation(), "schema", schema)
        progress(f"moving from {former} to {self._partitions} partitions ...")
        moved = await self._move(progress)
        await self._client.execute("DEL", self._keys.published())
        await self._client.execute("DEL", self._keys.lags())
        progress("declaring the queues ...")
        await apply_topology(replace(amqp_settings(self._settings), partitions=self._partitions))
        await self._remove_queues(former)
        name = self._keys.installation()
        await self._client.execute("HSET", name, "partitions", self._partitions, "schema", SCHEMA)
        return moved

    async def _former(self) -> int:
        found = await read_installation(self._client, self._keys)
        if found is None:
            raise NotAtRest("nothing was ever started on this store: set CALLTAG_PARTITIONS, and start calltag")
        if found.schema.startswith(_MOVING):
            if found.schema != f"{_MOVING} {self._partitions}":
                raise NotAtRest(f"the installation is {found.schema} partitions: name that number to continue")
        elif found.schema != SCHEMA:
            raise NotAtRest(f"the store has schema {found.schema}; this version of calltag moves schema {SCHEMA}")
        elif found.partitions == self._partitions:
            raise NotAtRest(f"the installation has {found.partitions} partitions already")
        return found.partitions

    async def _require_rest(self, former: int) -> None:
        running = [
            f"{each.service} {each.instance}" for each in await RedisProcesses(self._client, self._keys).running()
        ]
        running += [each.worker for each in await RedisWorkerRegistry(self._client, self._keys).living()]
        if running:
            raise NotAtRest(f"processes run: {', '.join(running)}; stop all of them first")
        for partition in map(Partition, range(max(former, self._partitions))):
            if await self._client.execute("EXISTS", self._keys.outbox(partition)):
                raise NotAtRest(
                    f"partition {partition} has events that are not published: start a worker, and stop it again"
                )
            if await self._client.execute("HLEN", self._keys.blocks(partition)):
                raise NotAtRest(
                    f"partition {partition} has calls that a parked operation blocks: replay or drop them "
                    "(calltag parked ls)"
                )

    async def _require_empty_queues(self, former: int) -> None:
        """Raises NotAtRest, BrokerUnavailable."""
        topology = Topology(replace(amqp_settings(self._settings), partitions=former))
        queues = [topology.parking, *(topology.partition_queue(Partition(each)) for each in range(former))]
        waiting = {name: count for name, count in (await self._counts(topology, queues)).items() if count}
        if waiting:
            listed = ", ".join(f"{count} in {name}" for name, count in waiting.items())
            raise NotAtRest(
                f"operations wait: {listed}. Start workers without gateways until calltag partitions shows none, and "
                "stop them; replay or drop parked ones"
            )

    async def _counts(self, topology: Topology, queues: list[str]) -> dict[str, int]:
        connection = await connect(topology.settings, "repartition")
        try:
            async with asyncio.timeout(_BROKER_DEADLINE_S):
                channel, counts = await connection.channel(), {}
                for name in queues:
                    try:
                        queue = await channel.declare_queue(name, passive=True)
                    except ChannelNotFoundEntity:
                        channel = await connection.channel()
                    else:
                        counts[name] = queue.declaration_result.message_count or 0
                return counts
        except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
            raise BrokerUnavailable(f"RabbitMQ did not show its queues: {type(error).__name__}: {error}") from None
        finally:
            with suppress(AMQPError, OSError, RuntimeError):
                await connection.close()

    async def _remove_queues(self, former: int) -> None:
        """Remove the empty queues of partitions that there are no longer. Raises BrokerUnavailable."""
        topology = Topology(amqp_settings(self._settings))
        connection = await connect(topology.settings, "repartition")
        try:
            for number in range(self._partitions, former):
                with suppress(ChannelNotFoundEntity):
                    channel = await connection.channel()
                    queue = await channel.declare_queue(topology.partition_queue(Partition(number)), passive=True)
                    # Quorum queues have no condition for a deletion.
                    if not queue.declaration_result.message_count:
                        await channel.queue_delete(queue.name)
        finally:
            with suppress(AMQPError, OSError, RuntimeError):
                await connection.close()

    async def _move(self, progress: Callable[[str], None]) -> int:
        moved = 0
        async for tag, key in self._states():
            target = partition_of(partition_key(key), self._partitions)
            if hash_tag(target) == tag:
                continue
            await self._move_one(key, Partition(int(tag[1:])), target)
            moved += 1
            if moved % _SHOW_EVERY == 0:
                progress(f"moved {moved:,} calls and agents ...")
        return moved

    async def _states(self) -> AsyncIterator[tuple[str, str]]:
        """Yield hash tag and key of each call and agent; a hash without a version belongs to one of them."""
        async for raw in self._client.scan(f"{self._keys.prefix}:{{p*", "hash", _PAGE):
            found = self._name.fullmatch(raw.decode())
            if found is not None and await self._client.execute("HEXISTS", raw, "version"):
                yield found[1], found[2]

    async def _move_one(self, key: str, source: Partition, target: Partition) -> None:
        """Copy what belongs to a call or agent, and remove the original; its state is the last to go."""
        old, new = self._keys.state(source, key), self._keys.state(target, key)
        await self._copy(old, new)
        score = await self._client.execute("ZSCORE", self._keys.live(source), key)
        if score is not None:
            await self._client.execute("ZADD", self._keys.live(target), cast("bytes", score), key)
            await self._client.execute("ZREM", self._keys.live(source), key)
        for name in reversed(old.all()):
            await self._client.execute("DEL", name)

    async def _copy(self, old: StateKeys, new: StateKeys) -> None:
        """Copy each key that is there; one that is not was removed by an interrupted run, after it was copied."""
        for source, target in zip(old.all(), new.all(), strict=True):
            if source == old.order:
                values = cast("list[bytes]", await self._client.execute("LRANGE", source, 0, -1))
                command = "RPUSH"
            else:
                fields = fields_of(await self._client.execute("HGETALL", source))
                values, command = [part for pair in fields.items() for part in pair], "HSET"
            if values:
                lifetime_ms = cast("int", await self._client.execute("PTTL", source))
                await self._client.execute("DEL", target)
                await self._client.execute(command, target, *values)
                if lifetime_ms > 0:
                    await self._client.execute("PEXPIRE", target, lifetime_ms)


async def repartition(settings: Settings, partitions: int, progress: Callable[[str], None]) -> int:
    """Move the installation. Raises NotAtRest, StoreUnavailable, BrokerUnavailable, BrokerRefused."""
    client = open_client(settings, max_connections=4)
    try:
        return await Repartition(client, settings, partitions).run(progress)
    finally:
        await client.close()
