"""Checks of `calltag doctor` on notifiers: messages of workers reach their inboxes."""

import asyncio
from typing import Final

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError
from aiormq.exceptions import ChannelNotFoundEntity

from calltag.cli.finding import Finding, ok, wrong
from calltag.cli.sessions import sessions
from calltag.core.backends import amqp_settings
from calltag.core.bus.amqp.connecting import connect
from calltag.core.bus.amqp.probing import Routing, probed
from calltag.core.bus.amqp.topology import Topology
from calltag.core.bus.ports import BusUnavailable, NodeId
from calltag.core.settings import Settings
from calltag.core.store.ports import StoreError

_DEADLINE_S: Final = 9.0
_MOST_SESSIONS: Final = 2_000
"""Maximum sessions to read: all notifiers, or nearly all, hold some of them."""


async def inbox_findings(settings: Settings) -> list[Finding]:
    """Return the faults of the inboxes of notifiers that hold sessions. Other checks report unreachable servers."""
    try:
        async with asyncio.timeout(_DEADLINE_S):
            nodes = await _holders(settings)
            return await _findings(settings, nodes) if nodes else []
    except (StoreError, BusUnavailable, AMQPError, OSError, RuntimeError, TimeoutError):
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


async def _findings(settings: Settings, nodes: list[NodeId]) -> list[Finding]:
    bus = amqp_settings(settings)
    connection = await connect(bus, "doctor")
    try:
        cut_off = [node for node in nodes if await _is_cut_off(connection, Topology(bus), node)]
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
