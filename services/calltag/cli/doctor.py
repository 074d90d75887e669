"""What `calltag doctor` looks at."""

import asyncio
import re
from dataclasses import dataclass
from typing import Literal

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelPreconditionFailed

from calltag.core.backends import NO_USERS, amqp_settings, load_directory
from calltag.core.bus.amqp.topology import Topology
from calltag.core.bus.ports import Partition
from calltag.core.identity.directory_file import DirectoryError
from calltag.core.settings import Settings
from calltag.core.store.client import redis_client
from calltag.core.store.keys import Keys
from calltag.core.store.ports import InstallationMismatch, StoreUnavailable
from calltag.core.store.redis_registry import read_installation

_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at, in plain words."""

    good: bool
    text: str


async def examine(settings: Settings) -> list[Finding]:
    """Look at broker, store and directory."""
    return [*await _broker(settings), *await _store(settings), _directory(settings)]


async def _broker(settings: Settings) -> list[Finding]:
    bus = amqp_settings(settings)
    try:
        async with asyncio.timeout(_DEADLINE_S):
            connection = await aio_pika.connect(bus.url)
    except (AMQPError, OSError, TimeoutError) as error:
        return [
            Finding(False, f"RabbitMQ is not reachable ({type(error).__name__}); CALLTAG_AMQP__URL says where it is")
        ]
    async with connection:
        properties = getattr(getattr(connection.transport, "connection", None), "server_properties", {})
        known = dict(properties or {}).get("version", "unknown")
        version = known.decode() if isinstance(known, bytes) else known
        return [_version("RabbitMQ", version, (3, 10)), *await _queues(connection, Topology(bus))]


async def _queues(connection: AbstractConnection, topology: Topology) -> list[Finding]:
    count = topology.settings.partitions
    states = [await _queue(connection, topology, Partition(number)) for number in range(count)]
    findings = []
    if missing := states.count("missing"):
        findings.append(
            Finding(False, f"{missing} of {count} partition queues are missing; run: calltag topology apply")
        )
    if other := states.count("other"):
        text = f"{other} of {count} partition queues were declared otherwise than the settings CALLTAG_AMQP__ say"
        findings.append(Finding(False, text))
    return findings or [Finding(True, f"all {count} partition queues are there, as configured")]


async def _queue(
    connection: AbstractConnection, topology: Topology, partition: Partition
) -> Literal["there", "missing", "other"]:
    """How the queue of a partition is. It is declared only where it is there already, so nothing is changed."""
    channel = await connection.channel()
    try:
        await channel.get_queue(topology.partition_queue(partition))
        await topology.declare_partition(channel, partition)
    except ChannelPreconditionFailed:
        return "other"
    except AMQPError:
        return "missing"
    await channel.close()
    return "there"


async def _store(settings: Settings) -> list[Finding]:
    client = redis_client(settings.redis.url.get_secret_value(), deadline_s=_DEADLINE_S)
    try:
        async with client.exchange() as connection:
            info = await connection.info("server")
        name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
        version = str(info.get("valkey_version") or info.get("redis_version"))
        findings = [_version(name, version, (7, 0))]
        installation = await read_installation(client, Keys(settings.redis.key_prefix))
        if installation is None:
            text = f"nothing was ever started on this store; the first start fixes {settings.partitions} partitions"
        else:
            installation.check(settings.partitions)
            text = f"the installation has {settings.partitions} partitions, as configured"
        findings.append(Finding(True, text))
    except StoreUnavailable as error:
        return [Finding(False, f"{error}; CALLTAG_REDIS__URL says where it is")]
    except InstallationMismatch as error:
        findings.append(Finding(False, str(error)))
    finally:
        await client.close()
    return findings


def _version(name: str, version: str, least: tuple[int, int]) -> Finding:
    """Whether the version, as in `3.10.8` or `4.2.0-rc.1`, is not too old."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    needed = ".".join(map(str, least))
    if numbers is None:
        return Finding(True, f"{name} is reachable and does not tell its version; calltag needs {needed} or newer")
    enough = (int(numbers[1]), int(numbers[2])) >= least
    return Finding(enough, f"{name} {version} is reachable" + ("" if enough else f"; calltag needs {needed} or newer"))


def _directory(settings: Settings) -> Finding:
    try:
        users = load_directory(settings).users
    except DirectoryError as error:
        return Finding(False, str(error))
    if not users:
        return Finding(False, NO_USERS)
    return Finding(True, f"the directory has {len(users)} users")
