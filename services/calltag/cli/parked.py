"""Work of `calltag parked`: list parked operations, replay them, drop them.

The parking queue is read by receiving every message and acknowledging none: when the channel closes, RabbitMQ requeues
them in their places, in order. Meanwhile they are hidden from other consumers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

import orjson
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, HeadersType
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, DeliveryError

from calltag.core.backends import amqp_settings, open_client
from calltag.core.broker.ports import (
    BrokerRefused,
    BrokerUnavailable,
    ParkingDetails,
    Partition,
    hash_tag,
    partition_of,
)
from calltag.core.broker.rabbitmq.connection import connect
from calltag.core.broker.rabbitmq.operation_batch import unpacked
from calltag.core.broker.rabbitmq.parking import headers_of, parking_of
from calltag.core.broker.rabbitmq.topology import Topology
from calltag.core.contracts.operations import OPERATION, OperationMessage, WireError
from calltag.core.domain.ids import OperationId
from calltag.core.settings import Settings
from calltag.core.store.calls import RedisCallBlocks
from calltag.core.store.keys import Keys
from calltag.core.store.ports import CallBlock

_DEADLINE_S: Final = 60.0
_NEXT_DEADLINE_S: Final = 5.0
_EMBEDDED: Final = (
    "calltag serve --embedded has its broker inside its process: parked operations are lost when it stops, and other "
    "processes cannot read them; its log (operation_parked) names them"
)
_UNKNOWN_DETAILS: Final = ParkingDetails(
    "unknown", "no worker and no RabbitMQ header gives a reason", Partition(0), 0, 0, 0
)
_AHEAD: Final = 32
"""Prefetch count while each message is replayed at once."""
HIDDEN: Final = "(hidden)"


class NotParked(Exception):
    """No operation of that id is parked; the message says how to find one."""


@dataclass(frozen=True, slots=True)
class ParkedOperation:
    """One parked operation. `name` and `sender` are empty if it cannot be decoded, `body` if it was not requested."""

    operation_id: OperationId
    parking: ParkingDetails
    key: str
    name: str
    sender: str
    size_bytes: int
    body: bytes = b""
    blocks_call: bool = False

    @property
    def message(self) -> OperationMessage | None:
        """The decoded operation; None if it cannot be decoded."""
        return _read(self.body)

    def partition(self, partitions: int) -> Partition:
        """Return the partition to which it is replayed."""
        message = self.message
        return partition_of(message.operation.partition_key, partitions) if message else self.parking.partition


KeepsBody = Callable[[ParkedOperation], bool]


def _never(_: ParkedOperation) -> bool:
    return False


def _always(_: ParkedOperation) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ParkedFound:
    """All parked operations, oldest first, and the stray blocks, whose operation is not parked."""

    parked: Sequence[ParkedOperation]
    stray: Mapping[str, CallBlock]


@dataclass(frozen=True, slots=True)
class ParkedOperations:
    """The parking queue of an installation and the blocks on its calls.

    Methods raise StoreUnavailable, BrokerUnavailable, and BrokerRefused if the queue is missing.
    """

    settings: Settings
    channel: AbstractChannel
    blocks: RedisCallBlocks

    async def found(self) -> ParkedFound:
        """Return all parked operations, without their bodies; they stay parked."""
        return await self._found([parked for _, parked in await self._taken()])

    async def one(self, operation_id: str) -> ParkedOperation:
        """Return the parked operation of that id. Raises NotParked."""
        taken = await self._taken(lambda parked: parked.operation_id == operation_id)
        for parked in (await self._found([parked for _, parked in taken])).parked:
            if parked.operation_id == operation_id:
                return parked
        raise _not_parked(operation_id)

    async def replay(self, operation_id: str | None) -> Sequence[ParkedOperation]:
        """Requeue one operation and those parked behind it, or all, to the queues of their partitions, in order.

        The worker that applies an operation unblocks its call in the same step. Raises NotParked.
        """
        if operation_id is None:
            return await self._replay_all()
        taken = await self._taken(lambda parked: _is_wanted(parked, operation_id))
        wanted = [each for each in taken if _is_wanted(each[1], operation_id)]
        if all(parked.operation_id != operation_id for _, parked in wanted):
            raise _not_parked(operation_id)
        for tag, parked in wanted:
            await self._publish(parked)
            await self._ack(tag)
        return [parked for _, parked in wanted]

    async def _replay_all(self) -> Sequence[ParkedOperation]:
        """Requeue all, one after another, so that few are in memory at a time."""
        await self.channel.set_qos(prefetch_count=_AHEAD)
        replayed: list[ParkedOperation] = []
        async for message in self._arriving():
            parked = _parked(message, keeps_body=_always)
            await self._publish(parked)
            await message.ack()
            replayed.append(replace(parked, body=b""))
        return replayed

    async def drop(self, operation_id: str | None) -> Sequence[str]:
        """Delete one operation or all, and unblock their calls; return the ids.

        Stray blocks are removed as well. Raises NotParked.
        """
        taken = await self._taken()
        found = await self._found([parked for _, parked in taken])
        chosen: Callable[[str], bool] = lambda each: operation_id in {None, each}  # noqa: E731
        dropped: list[str] = []
        for tag, parked in taken:
            if chosen(parked.operation_id):
                await self._ack(tag)
                dropped.append(parked.operation_id)
                if parked.key:
                    await self.blocks.clear(parked.key, parked.operation_id)
        for key, block in found.stray.items():
            if chosen(block.operation_id):
                await self.blocks.clear(key, block.operation_id)
                dropped.append(block.operation_id)
        if operation_id is not None and not dropped:
            raise _not_parked(operation_id)
        return dropped

    async def _found(self, parked: Sequence[ParkedOperation]) -> ParkedFound:
        blocks = await self.blocks.all()
        there = {each.operation_id for each in parked}
        stray = {key: block for key, block in blocks.items() if block.operation_id not in there}
        return ParkedFound([_with_block(each, blocks) for each in parked], stray)

    async def _taken(self, keeps_body: KeepsBody = _never) -> list[tuple[int, ParkedOperation]]:
        """Receive all messages of the queue, oldest first, with delivery tags that are valid until the channel closes.

        Only the bodies that are requested are kept.
        """
        return [
            (message.delivery_tag or 0, _parked(message, keeps_body=keeps_body)) async for message in self._arriving()
        ]

    async def _arriving(self) -> AsyncIterator[AbstractIncomingMessage]:
        """Receive all messages of the queue, oldest first.

        It uses a consumer, because RabbitMQ requeues messages of single fetches (basic.get) in any order.
        """
        name = Topology(amqp_settings(self.settings)).parking
        try:
            queue = await self.channel.declare_queue(name, passive=True)
        except ChannelNotFoundEntity:
            raise BrokerRefused(f"there is no queue {name}; run: calltag topology apply") from None
        arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await queue.consume(arrived.put)
        left = queue.declaration_result.message_count or 0
        with suppress(TimeoutError):
            # Another consumer may have received some of them meanwhile.
            while left:
                async with asyncio.timeout(_NEXT_DEADLINE_S):
                    message = await arrived.get()
                left += await self._take_apart(message) - 1
                if not message.processed:
                    yield message

    async def _ack(self, tag: int) -> None:
        underlay = await self.channel.get_underlay_channel()
        await underlay.basic_ack(tag)

    async def _take_apart(self, message: AbstractIncomingMessage) -> int:
        """Park each operation of a message that holds several separately; return their number, 0 for a single one.

        Only RabbitMQ parks such messages: as poison messages that were redelivered too often.
        """
        parts = unpacked(message.body, message.correlation_id or "", message.headers)
        if len(parts) == 1:
            return 0
        exchange = await self.channel.get_exchange(Topology(amqp_settings(self.settings)).parking, ensure=False)
        headers = headers_of(parking_of(message.headers) or _UNKNOWN_DETAILS)
        for part in parts:
            await exchange.publish(_message(part.body, part.name, headers), "", mandatory=True)
        await message.ack()
        return len(parts)

    async def _publish(self, parked: ParkedOperation) -> None:
        topology = Topology(amqp_settings(self.settings))
        exchange = await self.channel.get_exchange(topology.operations, ensure=False)
        tag = hash_tag(parked.partition(self.settings.partitions))
        try:
            await exchange.publish(_message(parked.body, parked.operation_id), tag, mandatory=True)
        except DeliveryError:
            raise BrokerRefused(f"the queue of {tag} is full or missing; the others stay parked") from None


@asynccontextmanager
async def parking_lot(settings: Settings) -> AsyncIterator[ParkedOperations]:
    """Open the parking queue that the settings name. Raises BrokerUnavailable."""
    client = open_client(settings, max_connections=2)
    try:
        connection = await connect(amqp_settings(settings), "parked")
        async with asyncio.timeout(_DEADLINE_S), connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            yield ParkedOperations(
                settings, channel, RedisCallBlocks(client, Keys(settings.redis.key_prefix), settings.partitions)
            )
            await channel.close()
    except BrokerUnavailable as error:
        raise BrokerUnavailable(f"{error} ({_EMBEDDED})") from None
    except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
        raise BrokerUnavailable(f"the connection to RabbitMQ broke: {type(error).__name__}: {error}") from error
    finally:
        await client.close()


def _message(body: bytes, name: str, headers: HeadersType | None = None) -> Message:
    return Message(
        body,
        delivery_mode=DeliveryMode.PERSISTENT,
        content_type="application/json",
        message_id=uuid4().hex,
        correlation_id=name,
        headers=headers,
    )


def _read(body: bytes) -> OperationMessage | None:
    try:
        return OPERATION.decode(body)
    except WireError:
        return None


def _parked(message: AbstractIncomingMessage, *, keeps_body: KeepsBody) -> ParkedOperation:
    read, parking = _read(message.body), parking_of(message.headers) or _UNKNOWN_DETAILS
    parked = ParkedOperation(
        operation_id=read.operation.id if read is not None else OperationId(message.correlation_id or ""),
        parking=parking,
        key=read.operation.order_key if read is not None else parking.key,
        name=read.operation.operation_name if read is not None else "",
        sender=(read.operation.sender or "") if read is not None else "",
        size_bytes=len(message.body),
    )
    return replace(parked, body=message.body) if keeps_body(parked) else parked


def _with_block(parked: ParkedOperation, blocks: Mapping[str, CallBlock]) -> ParkedOperation:
    block = blocks.get(parked.key)
    return replace(parked, blocks_call=block is not None and block.operation_id == parked.operation_id)


def _is_wanted(parked: ParkedOperation, operation_id: str | None) -> bool:
    return operation_id is None or operation_id in {parked.operation_id, parked.parking.after}


def _not_parked(operation_id: str) -> NotParked:
    return NotParked(f"no operation {operation_id} is parked; calltag parked ls lists those that are")


def public(parked: ParkedOperation, *, values: bool = False) -> dict[str, Any]:
    """Return the fields to show of a parked operation; values of user data and tones only with `values`."""
    parking = parked.parking
    return {
        "operation": parked.operation_id,
        "reason": parking.reason,
        "detail": parking.detail,
        "about": parked.key,
        "name": parked.name,
        "sender": parked.sender,
        "partition": parking.partition,
        "first_seen_ms": parking.first_seen_ms,
        "failed_ms": parking.failed_ms,
        "attempts": parking.attempts,
        "exception": parking.exception,
        "behind": parking.after,
        "blocks_call": parked.blocks_call,
        "bytes": parked.size_bytes,
        "content": content(parked, values=values),
    }


def content(parked: ParkedOperation, *, values: bool) -> Any:
    """Return the operation; without `values`, user data and tones are hidden, and all of one that cannot be decoded."""
    message = parked.message
    if message is None:
        return parked.body.decode(errors="replace") if values else HIDDEN
    whole = orjson.loads(OPERATION.encode(message))
    action = whole["operation"]["action"]
    if not values:
        if "pairs" in action:
            action["pairs"] = [[key, HIDDEN] for key, _ in action["pairs"]]
        for name in ("digits", "disposition"):
            if name in action:
                action[name] = HIDDEN
    return whole["operation"]
