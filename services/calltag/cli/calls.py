"""Work of `calltag calls`: list live calls, show one, end one."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, cast
from uuid import uuid4

import orjson
from rich.table import Table

from calltag.cli.sessions import connected
from calltag.core.backends import amqp_settings, open_client
from calltag.core.broker.ports import Partition, partition_of
from calltag.core.broker.rabbitmq import open_rabbitmq
from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.domain.call import Call, Leg
from calltag.core.domain.ids import CallId, OperationId, UserId
from calltag.core.domain.operations import CallEnded, CallOperation
from calltag.core.process.waiting import backoff_s
from calltag.core.settings import Settings
from calltag.core.store.calls import RedisCallReader
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.ports import CallBlock

_PAGE: Final = 200
_END_DEADLINE_S: Final = 10.0
_CALL: Final = b"call:"


class NoSuchCall(Exception):
    """There is no call of that id; the message says how to find one."""


class NotEnded(Exception):
    """The end of a call was accepted, and did not take effect in time."""


@dataclass(frozen=True, slots=True)
class ListedCall:
    """A call, with its block if an operation on it is parked."""

    call: Call
    block: CallBlock | None = None


class Calls:
    """The calls in the Redis of the settings. Every method may raise StoreUnavailable."""

    def __init__(self, client: RedisClient, settings: Settings) -> None:
        self._client = client
        self._keys = Keys(settings.redis.key_prefix)
        self._settings = settings
        self._reader = RedisCallReader(client, self._keys, settings.partitions)

    async def live(self, user: str | None) -> AsyncIterator[ListedCall]:
        """Yield the live calls of one user, or all, those without a change for longest first in each partition."""
        if user is not None:
            for call in await self._reader.calls_of(UserId(user)):
                yield ListedCall(call, await self._reader.block(call.id))
            return
        for partition in map(Partition, range(self._settings.partitions)):
            async for call_id in self._ids(partition):
                found = await self._found(call_id)
                if found is not None and not found.call.released:
                    yield found

    async def one(self, call_id: str) -> ListedCall:
        """Return a call. Raises NoSuchCall."""
        found = await self._found(CallId(call_id))
        if found is None:
            raise NoSuchCall(f"there is no call {call_id}, or it was released long ago; calltag calls ls lists them")
        return found

    async def end(self, call_id: str) -> None:
        """End a call as the switch would, and wait until it is released.

        Raises NoSuchCall, NotEnded, BrokerUnavailable.
        """
        found = await self.one(call_id)
        if found.call.released:
            raise NoSuchCall(f"call {call_id} is released already")
        now_ms = round(time.time() * 1_000)
        operation = CallOperation(OperationId(f"operator-{uuid4().hex}"), found.call.id, CallEnded("operator"), now_ms)
        body = OPERATION.encode(OperationMessage(operation=operation))
        partition = partition_of(operation.partition_key, self._settings.partitions)
        async with open_rabbitmq(amqp_settings(self._settings)) as broker:
            await connected(broker)
            await broker.publish_operation(partition, body, operation.id)
        await self._until_released(found.call.id)

    async def _until_released(self, call_id: CallId) -> None:
        try:
            async with asyncio.timeout(_END_DEADLINE_S):
                for delay_s in backoff_s(0.05, 0.5):
                    found = await self._found(call_id)
                    if found is None or found.call.released:
                        return
                    await asyncio.sleep(delay_s)
        except TimeoutError:
            raise NotEnded(
                f"the end of call {call_id} was accepted, and it is not released after {_END_DEADLINE_S:g} s: its "
                "partition has no worker, or a parked operation blocks it; see calltag partitions and calltag parked ls"
            ) from None

    async def _ids(self, partition: Partition) -> AsyncIterator[CallId]:
        begin = 0
        while True:
            members = await self._client.execute("ZRANGE", self._keys.live(partition), begin, begin + _PAGE - 1)
            page = cast("list[bytes]", members)
            for member in page:
                yield CallId(member.removeprefix(_CALL).decode())
            if len(page) < _PAGE:
                return
            begin += _PAGE

    async def _found(self, call_id: CallId) -> ListedCall | None:
        call = await self._reader.call(call_id)
        return None if call is None else ListedCall(call, await self._reader.block(call_id))


@asynccontextmanager
async def calls(settings: Settings) -> AsyncIterator[Calls]:
    """Open the calls of the settings."""
    client = open_client(settings, max_connections=4)
    try:
        yield Calls(client, settings)
    finally:
        await client.close()


def public(found: ListedCall, *, values: bool = False) -> Mapping[str, object]:
    """Return the JSON of a call; the user data is its keys with the bytes of each, or with `values` the data."""
    call, block = found.call, found.block
    data = call.user_data.values
    return {
        "id": call.id,
        "type": call.type,
        "began_at_ms": call.began_at_ms,
        "version": call.version,
        "dnis": call.dnis,
        "ani": call.ani,
        "released": call.released,
        "recording": call.recording,
        "blocked_by": None if block is None else block.operation_id,
        "parties": [_party(each) for each in call.legs],
        "user_data": data if values else {key: len(orjson.dumps(value)) for key, value in data.items()},
    }


def _party(leg: Leg) -> Mapping[str, object]:
    return {"number": leg.number, "state": leg.state, "user": leg.user, "device": leg.device}


def table_of(found: Sequence[ListedCall]) -> Table:
    """Return the calls as a table for a terminal."""
    table = Table("call", "type", "age", "parties", "keys", "version", "blocked", box=None)
    now_ms = time.time() * 1_000
    for each in found:
        call = each.call
        table.add_row(
            call.id, call.type, f"{max(0, now_ms - call.began_at_ms) / 1_000:.0f} s",
            " ".join(f"{leg.user or leg.number}:{leg.state}" for leg in call.legs if leg.live),
            str(len(call.user_data.values)), str(call.version), "yes" if each.block else "",
        )  # fmt: skip
    return table
