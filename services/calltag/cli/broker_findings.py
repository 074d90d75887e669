"""What `calltag doctor` looks at on RabbitMQ. Nothing is changed there."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Literal

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused

from calltag.cli.finding import Finding, version_finding
from calltag.core.backends import amqp_settings
from calltag.core.bus.amqp.connecting import connect
from calltag.core.bus.amqp.topology import Topology
from calltag.core.bus.ports import BusUnavailable, Partition
from calltag.core.settings import Settings

_LOOK_DEADLINE_S: Final = 9.0
_CLOSE_DEADLINE_S: Final = 1.0
_OLDEST: Final = (3, 10)

State = Literal["there", "missing", "other", "refused"]
Look = Callable[[AbstractChannel], Awaitable[object]]


async def broker_findings(settings: Settings) -> list[Finding]:
    """Version, exchanges and queues; takes 15 seconds at most."""
    bus = amqp_settings(settings)
    try:
        connection = await connect(bus, "doctor")
    except BusUnavailable as error:
        return [Finding(False, str(error))]
    findings = [version_finding("RabbitMQ", _version(connection), _OLDEST)]
    try:
        async with asyncio.timeout(_LOOK_DEADLINE_S):
            findings += await _topology_findings(connection, Topology(bus))
    except TimeoutError:
        findings.append(Finding(False, f"RabbitMQ did not show its queues within {_LOOK_DEADLINE_S:g} s"))
    except (AMQPError, OSError, RuntimeError) as error:
        findings.append(Finding(False, f"the connection to RabbitMQ broke: {type(error).__name__}: {error}"))
    except asyncio.CancelledError:
        # aiormq cancels what waits on a channel that closes.
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        findings.append(Finding(False, "the connection to RabbitMQ broke"))
    finally:
        with suppress(AMQPError, OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(_CLOSE_DEADLINE_S):
                await connection.close()
    return findings


def _version(connection: AbstractConnection) -> str:
    properties = getattr(getattr(connection.transport, "connection", None), "server_properties", {})
    known = dict(properties or {}).get("version", "unknown")
    return known.decode() if isinstance(known, bytes) else str(known)


async def _topology_findings(connection: AbstractConnection, topology: Topology) -> list[Finding]:
    exchanges = [await _exchange(connection, topology, name) for name in topology.exchanges]
    parking = await _state(connection, lambda channel: channel.get_queue(topology.parking), topology.declare_parking)
    partitions = [
        await _partition(connection, topology, Partition(number)) for number in range(topology.settings.partitions)
    ]
    return [
        *_findings(exchanges, "exchanges"),
        *_findings([parking], "parking queues"),
        *_findings(partitions, "partition queues"),
    ]


async def _exchange(connection: AbstractConnection, topology: Topology, name: str) -> State:
    return await _state(
        connection,
        lambda channel: channel.get_exchange(name),
        lambda channel: topology.declare_exchange(channel, name),
    )


async def _partition(connection: AbstractConnection, topology: Topology, partition: Partition) -> State:
    return await _state(
        connection,
        lambda channel: channel.get_queue(topology.partition_queue(partition)),
        lambda channel: topology.declare_partition(channel, partition),
    )


async def _state(connection: AbstractConnection, look: Look, declare: Look) -> State:
    """How something is. It is declared only where it is there already, so nothing is changed."""
    channel = await connection.channel()
    try:
        await look(channel)
        await declare(channel)
    except ChannelPreconditionFailed:
        return "other"
    except ChannelAccessRefused:
        return "refused"
    except ChannelNotFoundEntity:
        return "missing"
    await channel.close()
    return "there"


def _findings(states: list[State], what: str) -> list[Finding]:
    """What is wrong, or that nothing is."""
    count = len(states)
    wrong: dict[State, str] = {
        "missing": f"{what} are missing; run: calltag topology apply",
        "other": f"{what} were declared otherwise than the settings CALLTAG_AMQP__ say",
        "refused": f"{what} may not be declared by the user in CALLTAG_AMQP__URL (rabbitmqctl set_permissions)",
    }
    found = Counter(states)
    findings = [Finding(False, f"{found[state]} of {count} {text}") for state, text in wrong.items() if found[state]]
    return findings or [Finding(True, f"all {count} {what} are there, as configured")]
