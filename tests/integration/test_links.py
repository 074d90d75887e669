"""The connections to RabbitMQ when not a byte goes through: every wait has an end, and a stuck one is built anew."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import UnderlayConnection
from yarl import URL

from calltag.core.broker.ports import Broker, BrokerRefused, BrokerUnavailable, Partition
from calltag.core.broker.rabbitmq import RabbitMqSettings, apply_topology, open_rabbitmq
from calltag.core.broker.rabbitmq.connection import Link, connect
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
def settings(proxy: Proxy, amqp_prefix: str) -> RabbitMqSettings:
    url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
    return RabbitMqSettings(
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


async def takes(broker: Broker) -> bool:
    """Whether the broker takes an operation; in any case it says so in time."""
    try:
        async with asyncio.timeout(MOST_S):
            await broker.publish_operation(ONE, b"x", "x")
    except (BrokerUnavailable, BrokerRefused):
        return False
    return True


async def opens_channel(link: Link) -> bool:
    try:
        async with asyncio.timeout(MOST_S):
            async with link.channel():
                pass
    except BrokerUnavailable:
        return False
    return True


@pytest.mark.parametrize("count", [0, 1, 7, 8, 200, 505, 520, 560])
async def test_a_connection_that_ends_while_it_is_made_is_tried_again(
    settings: RabbitMqSettings, proxy: Proxy, count: int
) -> None:
    """Wherever in the broker's greeting, its tuning or its welcome that is."""
    proxy.close_after(count)
    async with running(Link(settings, "test")) as link:
        await eventually(lambda: proxy.taken > 2)
        proxy.close_after(None)
        await eventually(lambda: opens_channel(link))


@pytest.mark.parametrize("error", [StopAsyncIteration(), EOFError(), Exception("of no kind")], ids=repr)
async def test_whatever_ends_a_connection_while_it_is_made_is_told_plainly(
    settings: RabbitMqSettings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The first of these came from the library when a broker was started again, and was the end of the link."""

    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(aio_pika.Connection, "connect", fail)
    with pytest.raises(BrokerUnavailable, match="RabbitMQ is not reachable"):
        await connect(settings, "test")


async def test_a_link_that_ends_begins_anew(settings: RabbitMqSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is that ended it."""
    errors = [ValueError("not foreseen"), asyncio.CancelledError()]

    async def fail(link: Link) -> None:
        if errors:
            raise errors.pop()
        await connecting(link)

    connecting = Link._connect
    monkeypatch.setattr(Link, "_connect", fail)
    await apply_topology(settings)
    async with open_rabbitmq(settings) as broker:
        await eventually(lambda: takes(broker))
    assert errors == []


async def test_a_connection_that_does_not_come_about_is_tried_again(settings: RabbitMqSettings, proxy: Proxy) -> None:
    proxy.stall()
    async with running(Link(settings, "test")) as link:
        assert not await opens_channel(link)
        await eventually(lambda: proxy.taken > 1)
        proxy.heal()
        await eventually(lambda: opens_channel(link))


async def test_a_channel_that_does_not_open_is_told_and_its_connection_built_anew(
    settings: RabbitMqSettings, proxy: Proxy
) -> None:
    async with running(Link(settings, "test")) as link:
        await eventually(lambda: link.up)
        before = proxy.taken
        proxy.stall()
        async with asyncio.timeout(MOST_S):
            with pytest.raises(BrokerUnavailable, match="opened no channel"):
                await link.open_channel(confirms=True)
        await eventually(lambda: proxy.taken > before)
        proxy.heal()
        await eventually(lambda: opens_channel(link))


async def test_a_confirm_that_does_not_come_is_told_and_its_connection_built_anew(
    settings: RabbitMqSettings, proxy: Proxy
) -> None:
    await apply_topology(settings)
    async with open_rabbitmq(settings) as broker:
        await eventually(broker.connected)
        await eventually(lambda: takes(broker))
        before = proxy.taken
        proxy.stall()
        async with asyncio.timeout(MOST_S):
            with pytest.raises(BrokerUnavailable, match="did not confirm within 1 s"):
                await broker.publish_operation(ONE, b"x", "x")
        await eventually(lambda: proxy.taken > before)
        proxy.heal()
        await eventually(lambda: takes(broker))


async def test_a_connection_that_is_made_too_late_is_closed(
    settings: RabbitMqSettings, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = UnderlayConnection.make_connection

    async def too_late(url: URL, timeout: float | None = None, **more: Any) -> Any:
        await makes(url, timeout, **more)
        # Nobody but the library has it, as where the wait is cancelled before its result is taken.
        await asyncio.Event().wait()

    monkeypatch.setattr(UnderlayConnection, "make_connection", too_late)
    with pytest.raises(BrokerUnavailable, match="did not answer"):
        await connect(settings, "test")
    assert proxy.taken == 1
    await eventually(lambda: not proxy.writers)
