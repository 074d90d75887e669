"""Checks of `calltag doctor` on RabbitMQ. They leave nothing behind."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Literal
from uuid import uuid4

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused

from calltag.cli.output import Finding, ok, version_finding, wrong
from calltag.cli.sessions import sessions
from calltag.core.backends import amqp_settings
from calltag.core.broker.partitioning import hash_tag
from calltag.core.broker.ports import BrokerUnavailable, NodeId, Partition
from calltag.core.broker.rabbitmq.connection import connect
from calltag.core.broker.rabbitmq.inspector import Routing, probed
from calltag.core.broker.rabbitmq.topology import Topology
from calltag.core.settings import Settings
from calltag.core.store.ports import StoreError

_DEADLINE_S: Final = 9.0
_MOST_SESSIONS: Final = 2_000
"""Maximum sessions to read: all notifiers, or nearly all, hold some of them."""
_LOOK_DEADLINE_S: Final = 9.0
_CLOSE_DEADLINE_S: Final = 1.0
_OLDEST: Final = (3, 10)
_RIGHTS: Final = "which services have to (rabbitmqctl set_permissions; docs/operations.md has the rights)"
_NOT_COMPARED: Final = (
    "and were not compared with the settings, as the user in CALLTAG_AMQP__URL may not declare them (calltag topology "
    "apply needs that, the services do not)"
)
_NO_ROUTE: Final = {
    Routing.UNBOUND: "partition queues have lost their bindings: no operation gets there; run: calltag topology apply",
    Routing.FULL: "partition queues are full (CALLTAG_AMQP__QUEUE_MAX_LENGTH), or have no leader",
    Routing.REFUSED: f"partitions may not be published to by the user in CALLTAG_AMQP__URL, {_RIGHTS}",
}
State = Literal["there", "missing", "other", "refused"]
Look = Callable[[AbstractChannel], Awaitable[object]]


async def inbox_findings(settings: Settings) -> list[Finding]:
    """Return the faults of the inboxes of notifiers that hold sessions. Other checks report unreachable servers."""
    try:
        async with asyncio.timeout(_DEADLINE_S):
            nodes = await _holders(settings)
            return await _inbox_findings(settings, nodes) if nodes else []
    except (StoreError, BrokerUnavailable, AMQPError, OSError, RuntimeError, TimeoutError):
        return []


async def _holders(settings: Settings) -> list[NodeId]:
    found: set[NodeId] = set()
    async with sessions(settings) as known:
        seen = 0
        async for each in known.all(None):
            found.add(each.holder)
            seen += 1
            if seen == _MOST_SESSIONS:
                break
    return sorted(found)


async def _inbox_findings(settings: Settings, nodes: list[NodeId]) -> list[Finding]:
    broker = amqp_settings(settings)
    connection = await connect(broker, "doctor")
    try:
        cut_off = [node for node in nodes if await _is_cut_off(connection, Topology(broker), node)]
    finally:
        await connection.close()
    if not cut_off:
        return [ok(f"workers' messages reach the inboxes of all {len(nodes)} notifiers that hold sessions")]
    return [
        wrong(
            f"the inbox of {node} has lost its binding: its sessions get events late; restart it, or restart its "
            "connections (rabbitmqctl close_connection)"
        )
        for node in cut_off
    ]


async def _is_cut_off(connection: AbstractConnection, topology: Topology, node: NodeId) -> bool:
    """Return whether the node runs but receives nothing. Without an inbox and a consumer, it does not run."""
    channel = await connection.channel()
    try:
        queue = await channel.declare_queue(topology.inbox_queue(node), passive=True)
    except ChannelNotFoundEntity:
        return False
    await channel.close()
    if not queue.declaration_result.consumer_count:
        return False
    return await probed(connection, topology.events, node) is Routing.UNBOUND


async def broker_findings(settings: Settings) -> list[Finding]:
    """Return findings on version, exchanges and queues, within 15 seconds."""
    broker = amqp_settings(settings)
    try:
        connection = await connect(broker, "doctor")
    except BrokerUnavailable as error:
        return [wrong(str(error))]
    findings = [version_finding("RabbitMQ", _version(connection), _OLDEST)]
    try:
        async with asyncio.timeout(_LOOK_DEADLINE_S):
            findings += await _topology_findings(connection, Topology(broker))
    except TimeoutError:
        findings.append(wrong(f"RabbitMQ did not show its queues within {_LOOK_DEADLINE_S:g} s"))
    except (AMQPError, OSError, RuntimeError) as error:
        findings.append(wrong(f"the connection to RabbitMQ broke: {type(error).__name__}: {error}"))
    except asyncio.CancelledError:
        # aiormq cancels tasks that wait on a closing channel.
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        findings.append(wrong("the connection to RabbitMQ broke"))
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
        *await _routes(connection, topology, partitions),
        *await _inbox(connection, topology),
    ]


async def _routes(connection: AbstractConnection, topology: Topology, partitions: Sequence[State]) -> list[Finding]:
    """Return findings on routing: a binding may be lost although the queue exists."""
    if "missing" in partitions:
        return []
    keys = [hash_tag(Partition(number)) for number in range(len(partitions))]
    found = Counter([await probed(connection, topology.operations, key) for key in keys])
    count = len(keys)
    findings = [wrong(f"{found[route]} of {count} {text}") for route, text in _NO_ROUTE.items() if found[route]]
    return findings or [ok(f"published operations reach all {count} partition queues")]


async def _inbox(connection: AbstractConnection, topology: Topology) -> list[Finding]:
    """Return a finding if services may not have inboxes; declares one temporarily."""
    node = NodeId(f"doctor-{uuid4().hex[:8]}")
    channel = await connection.channel()
    try:
        await channel.get_exchange(topology.events)
        await topology.declare_exchange(channel, topology.events)
        queue = await channel.declare_queue(topology.inbox_queue(node), exclusive=True, auto_delete=True)
        await queue.bind(topology.events, routing_key=node)
        route = await probed(connection, topology.events, node)
        await queue.delete()
        await channel.close()
    except (ChannelNotFoundEntity, ChannelPreconditionFailed):
        # Another finding reports that the exchange is missing or differs.
        return []
    except ChannelAccessRefused:
        route = Routing.REFUSED
    if route is Routing.REFUSED:
        return [
            wrong(f"the user in CALLTAG_AMQP__URL may not declare, bind and send to {topology.events}.*, {_RIGHTS}")
        ]
    return []


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
    """Return the state of an exchange or queue. It is declared only if it exists, so nothing is changed."""
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
    """Return the faults, or one finding that there are none."""
    count = len(states)
    mistaken: dict[State, str] = {
        "missing": f"{what} are missing; run: calltag topology apply",
        "other": f"{what} differ from the CALLTAG_AMQP__ settings",
    }
    found = Counter(states)
    findings = [wrong(f"{found[state]} of {count} {text}") for state, text in mistaken.items() if found[state]]
    if found["refused"]:
        findings.append(ok(f"{found['refused']} of {count} {what} exist, {_NOT_COMPARED}"))
    return findings or [ok(f"all {count} {what} exist, as configured")]
