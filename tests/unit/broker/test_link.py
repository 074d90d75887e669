"""When a connection is given up."""

import asyncio
from typing import Any

import pytest

from calltag.core.broker.rabbitmq.connection import Link
from calltag.core.broker.rabbitmq.topology import RabbitMqSettings


class Connection:
    """A connection of a broker that opens channels, and does not answer on them."""

    is_closed = False

    def __init__(self, *, blocked: bool) -> None:
        self.transport = self
        self._blocked_later, self._blocked = blocked, False

    async def ready(self) -> None:
        if self._blocked:
            await asyncio.Event().wait()

    def channel(self, **_: Any) -> "Connection":
        return self

    async def initialize(self) -> None:
        """Opened."""

    async def set_qos(self, **_: Any) -> None:
        self._blocked = self._blocked_later
        await asyncio.Event().wait()


class Slow(Connection):
    """A connection whose library takes some turns of the loop to say that it is not blocked."""

    async def ready(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await super().ready()


@pytest.mark.parametrize("kind", [Connection, Slow])
async def test_a_connection_is_not_blocked_however_its_library_finds_out(kind: type[Connection]) -> None:
    made = Link(RabbitMqSettings("amqp://broker/"), "test")
    made._connection = kind(blocked=False)  # type: ignore[assignment]
    assert not await made.look()


@pytest.mark.parametrize("blocked", [True, False])
async def test_a_probe_without_an_answer_tells_nothing_of_a_broker_that_reads_nothing_now(*, blocked: bool) -> None:
    """It came to be short of memory or disk between the two: the connection is sound."""
    made = Link(RabbitMqSettings("amqp://broker/", publish_deadline_s=0.01), "test")
    made._connection = Connection(blocked=blocked)  # type: ignore[assignment]
    await made.probe()
    assert made._closed.is_set() != blocked
    assert made.blocked == blocked
