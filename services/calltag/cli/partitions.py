"""Work of `calltag partitions`: list the owner and the backlog of each partition."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, Literal, cast

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity
from rich.table import Table

from calltag.core.backends import amqp_settings, open_client
from calltag.core.broker.ports import BrokerUnavailable, Partition
from calltag.core.broker.rabbitmq.connection import connect
from calltag.core.broker.rabbitmq.topology import Topology
from calltag.core.settings import Settings
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.ports import HeldPartition, LivingWorker
from calltag.core.store.workers import RedisWorkerRegistry, read_installation

_LOOK_DEADLINE_S: Final = 9.0
_CLOSE_DEADLINE_S: Final = 1.0

State = Literal["owned", "moving", "unowned", "no queue"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """State of a partition's queue in RabbitMQ: messages not yet delivered, of one operation or several, and
    consumers."""

    ready: int
    consumers: int


@dataclass(frozen=True, slots=True)
class ListedPartition:
    """State of a partition. `depth` counts what is not acknowledged: `ready` messages in the queue, and the
    operations delivered to its owner.

    Values that only an owner reports are None without one: `unacknowledged`, and `oldest_age_ms`, the age of the
    oldest operation delivered to it (0 if there is none).
    """

    partition: Partition
    state: State
    owners: Sequence[str]
    epoch: int
    depth: int | None
    ready: int | None
    unacknowledged: int | None
    consumers: int | None
    oldest_age_ms: int | None

    @property
    def good(self) -> bool:
        """True if its operations are processed; they are while it moves."""
        return self.state in {"owned", "moving"}


class NothingStarted(Exception):
    """No worker was ever started on this Redis; the message says so."""


async def listed_partitions(settings: Settings) -> Sequence[ListedPartition]:
    """Return all partitions of the installation. Raises StoreUnavailable, BrokerUnavailable, NothingStarted."""
    client = open_client(settings)
    try:
        keys = Keys(settings.redis.key_prefix)
        installation = await read_installation(client, keys)
        if installation is None:
            raise NothingStarted("nothing was ever started on this store; CALLTAG_REDIS__URL says which it is")
        installation.check(settings.partitions)
        queues = await _queues(settings)
        living = await RedisWorkerRegistry(client, keys).living()
        epochs, now_ms = await _epochs(client, keys, settings.partitions)
    finally:
        await client.close()
    partitions = map(Partition, range(settings.partitions))
    return [_listed(each, living, queues.get(each), epochs[each], now_ms) for each in partitions]


async def _epochs(client: RedisClient, keys: Keys, partitions: int) -> tuple[Sequence[int], int]:
    """Return the epoch of each partition, 0 before the first, and the time of Redis in milliseconds."""
    epochs = await client.execute_all(("GET", keys.epoch(Partition(number))) for number in range(partitions))
    # In a cluster, read the clock of the server that holds the leases.
    seconds, microseconds = map(int, cast("list[bytes]", await client.script("clock")([keys.workers()], [])))
    return [int(cast("bytes | None", each) or 0) for each in epochs], seconds * 1_000 + microseconds // 1_000


async def _queues(settings: Settings) -> Mapping[Partition, Waiting]:
    """Return the state of the queues that exist. Raises BrokerUnavailable."""
    broker = amqp_settings(settings)
    connection = await connect(broker, "partitions")
    try:
        async with asyncio.timeout(_LOOK_DEADLINE_S):
            return await _looked_at(connection, Topology(broker))
    except TimeoutError:
        raise BrokerUnavailable(f"RabbitMQ did not show its queues within {_LOOK_DEADLINE_S:g} s") from None
    except (AMQPError, OSError, RuntimeError) as error:
        raise BrokerUnavailable(f"the connection to RabbitMQ broke: {type(error).__name__}: {error}") from error
    finally:
        with suppress(AMQPError, OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(_CLOSE_DEADLINE_S):
                await connection.close()


async def _looked_at(connection: AbstractConnection, topology: Topology) -> Mapping[Partition, Waiting]:
    """Read each queue by a passive declaration, which changes nothing; a missing queue closes the channel."""
    found: dict[Partition, Waiting] = {}
    channel = await connection.channel()
    for partition in map(Partition, range(topology.settings.partitions)):
        try:
            queue = await channel.declare_queue(topology.partition_queue(partition), passive=True)
        except ChannelNotFoundEntity:
            channel = await connection.channel()
            continue
        result = queue.declaration_result
        found[partition] = Waiting(result.message_count or 0, result.consumer_count or 0)
    return found


def _listed(
    partition: Partition, living: Sequence[LivingWorker], waiting: Waiting | None, epoch: int, now_ms: int
) -> ListedPartition:
    reports = [(each.worker, held) for each in living for held in each.held if held.partition == partition]
    reports.sort(key=lambda pair: pair[1].epoch or 0, reverse=True)
    held = [each for _, each in reports]
    unacknowledged = sum(each.unacknowledged for each in held) if held else None
    ready = None if waiting is None else waiting.ready
    return ListedPartition(
        partition=partition,
        state=_state(len(held), waiting),
        owners=[worker for worker, _ in reports],
        epoch=epoch,
        depth=None if ready is None else ready + (unacknowledged or 0),
        ready=ready,
        unacknowledged=unacknowledged,
        consumers=None if waiting is None else waiting.consumers,
        oldest_age_ms=_oldest_age_ms(held, now_ms),
    )


def _state(owners: int, waiting: Waiting | None) -> State:
    if waiting is None:
        return "no queue"
    if owners == 0:
        return "unowned"
    return "owned" if owners == 1 else "moving"


def _oldest_age_ms(held: Sequence[HeldPartition], now_ms: int) -> int | None:
    if not held:
        return None
    return max((max(0, now_ms - each.oldest_at_ms) for each in held if each.oldest_at_ms is not None), default=0)


def public(each: ListedPartition) -> dict[str, object]:
    """Return the object for a line of `--json`."""
    return asdict(each)


def table_of(found: Sequence[ListedPartition]) -> Table:
    """Return the partitions as a table for a terminal."""
    table = Table("partition", "state", "owner", "epoch", "depth", "in hand", "consumers", "oldest", box=None)
    for each in found:
        oldest = None if each.oldest_age_ms is None else f"{each.oldest_age_ms / 1000:.1f} s"
        table.add_row(
            str(each.partition), each.state, " ".join(each.owners) or "-", str(each.epoch),
            *("?" if shown is None else str(shown)
              for shown in (each.depth, each.unacknowledged, each.consumers, oldest)),
        )  # fmt: skip
    return table
