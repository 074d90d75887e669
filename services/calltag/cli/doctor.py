"""What `calltag doctor` looks at."""

import asyncio
from dataclasses import dataclass

import aio_pika
from aio_pika.exceptions import AMQPError

from calltag.core.backends import amqp_settings, load_directory
from calltag.core.bus.amqp.topology import Topology
from calltag.core.bus.ports import Partition
from calltag.core.identity.directory_file import DirectoryError
from calltag.core.settings import Settings
from calltag.core.store.client import redis_client
from calltag.core.store.keys import Keys
from calltag.core.store.ports import InstallationMismatch, StoreUnavailable
from calltag.core.store.redis_registry import check_installation

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
        findings = [Finding(True, f"RabbitMQ {version} is reachable")]
        missing = 0
        for partition in map(Partition, range(settings.partitions)):
            channel = await connection.channel()
            try:
                await channel.get_queue(Topology(bus).partition_queue(partition))
            except AMQPError:
                missing += 1
            else:
                await channel.close()
        if missing:
            text = f"{missing} of {settings.partitions} partition queues are missing; run: calltag topology apply"
            findings.append(Finding(False, text))
        else:
            findings.append(Finding(True, f"all {settings.partitions} partition queues are there"))
    return findings


async def _store(settings: Settings) -> list[Finding]:
    client = redis_client(settings.redis.url.get_secret_value(), deadline_s=_DEADLINE_S)
    try:
        async with client.exchange() as connection:
            info = await connection.info("server")
        name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
        version = str(info.get("valkey_version") or info.get("redis_version"))
        findings = [_version(name, version)]
        await check_installation(client, Keys(settings.redis.key_prefix), settings.partitions)
        findings.append(Finding(True, f"the installation has {settings.partitions} partitions, as configured"))
    except StoreUnavailable as error:
        return [Finding(False, f"{error}; CALLTAG_REDIS__URL says where it is")]
    except InstallationMismatch as error:
        return [Finding(False, str(error))]
    finally:
        await client.close()
    return findings


def _version(name: str, version: str) -> Finding:
    enough = int(version.split(".", maxsplit=1)[0]) >= 7
    return Finding(enough, f"{name} {version} is reachable" + ("" if enough else "; calltag needs 7.0 or newer"))


def _directory(settings: Settings) -> Finding:
    try:
        users = load_directory(settings).users
    except DirectoryError as error:
        return Finding(False, str(error))
    if not users:
        return Finding(
            False, "there are no users; set CALLTAG_DIRECTORY__FILE (or CALLTAG_DIRECTORY__DEMO=true to try it)"
        )
    return Finding(True, f"the directory has {len(users)} users")
