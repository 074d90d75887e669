"""The connections to RabbitMQ when not a byte goes through: every wait has an end, and a stuck one is built anew."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from calltag.core.bus.amqp import AmqpSettings, apply_topology, open_amqp_bus
from calltag.core.bus.amqp.link import Link
from calltag.core.bus.ports import Bus, BusRefused, BusUnavailable, Partition
from parts.eventually import eventually
from parts.proxy import Proxy
from parts.rabbitmq import RabbitMq

ONE = Partition(0)
MOST_S = 5.0


@pytest.fixture
def proxy(rabbitmq: RabbitMq) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", rabbitmq.port) as forwarding:
        yield forwarding


@pytest.fixture
def settings(proxy: Proxy, amqp_prefix: str) -> AmqpSettings:
    url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
    return AmqpSettings(
        url, prefix=amqp_prefix, partitions=1, heartbeat_s=60, connect_deadline_s=1, publish_deadline_s=1
    )


@asynccontextmanager
async def running(link: Link) -> AsyncIterator[Link]:
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def takes(bus: Bus) -> bool:
    """Whether the bus takes an operation; in any case it says so in time."""
    try:
        async with asyncio.timeout(MOST_S):
            await bus.publish_operation(ONE, b"x", "x")
    except (BusUnavailable, BusRefused):
        return False
    return True


async def opens_channel(link: Link) -> bool:
    try:
        async with asyncio.timeout(MOST_S):
            async with link.channel():
                pass
    except BusUnavailable:
        return False
    return True


async def test_a_connection_that_does_not_come_about_is_tried_again(settings: AmqpSettings, proxy: Proxy) -> None:
    proxy.stall()
    async with running(Link(settings, "test")) as link:
        assert not await opens_channel(link)
        await eventually(lambda: proxy.taken > 1)
        proxy.heal()
        await eventually(lambda: opens_channel(link))


async def test_a_channel_that_does_not_open_is_told_and_its_connection_built_anew(
    settings: AmqpSettings, proxy: Proxy
) -> None:
    async with running(Link(settings, "test")) as link:
        await eventually(lambda: link.up)
        before = proxy.taken
        proxy.stall()
        async with asyncio.timeout(MOST_S):
            with pytest.raises(BusUnavailable, match="opened no channel"):
                await link.open_channel(confirms=True)
        await eventually(lambda: proxy.taken > before)
        proxy.heal()
        await eventually(lambda: opens_channel(link))


async def test_a_confirm_that_does_not_come_is_told_and_its_connection_built_anew(
    settings: AmqpSettings, proxy: Proxy
) -> None:
    await apply_topology(settings)
    async with open_amqp_bus(settings) as bus:
        await eventually(bus.connected)
        await eventually(lambda: takes(bus))
        before = proxy.taken
        proxy.stall()
        async with asyncio.timeout(MOST_S):
            with pytest.raises(BusUnavailable, match="did not confirm within 1 s"):
                await bus.publish_operation(ONE, b"x", "x")
        await eventually(lambda: proxy.taken > before)
        proxy.heal()
        await eventually(lambda: takes(bus))
