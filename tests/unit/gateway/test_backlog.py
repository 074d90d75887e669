"""What waits for the workers, as the gateway knows it."""

from collections.abc import Mapping

import pytest

from calltag.core.bus.memory import MemoryBus
from calltag.core.bus.ports import BusUnavailable, Partition
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.metrics import Metrics
from calltag.gateway.backlog import Backlog
from calltag.gateway.errors import BackendAway
from calltag.gateway.observations import GatewayObservations

HERE, THERE = Partition(0), Partition(1)


class Bus(MemoryBus):
    away = False
    asked = 0

    async def depth(self, partition: Partition) -> int:
        self.asked += 1
        if self.away:
            raise BusUnavailable("away")
        return await super().depth(partition)


class Told:
    """Lags as they are set."""

    def __init__(self) -> None:
        self.of: dict[Partition, int] | None = {}

    async def report(self, lags: Mapping[Partition, int]) -> None:
        raise NotImplementedError

    async def read(self) -> Mapping[Partition, int]:
        if self.of is None:
            raise StoreUnavailable("away")
        return self.of


def made(bus: Bus, lags: Told) -> Backlog:
    return Backlog(bus, lags, GatewayObservations(Metrics()), most=3, most_age_ms=2_000)


async def test_what_was_published_counts_until_it_is_known_to_be_gone() -> None:
    bus = Bus(2)
    backlog = made(bus, Told())
    backlog.admit([HERE] * 3)
    with pytest.raises(BackendAway, match="3 operations wait") as refused:
        backlog.admit([HERE])
    assert refused.value.http_status == 503
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 3
    backlog.admit([THERE])
    await backlog.look()
    backlog.admit([HERE])


async def test_a_deep_queue_takes_no_more_until_it_is_shorter() -> None:
    bus = Bus(2)
    backlog = made(bus, Told())
    backlog.admit([HERE])
    for number in range(5):
        await bus.publish_operation(HERE, b"{}", str(number))
    await backlog.look()
    with pytest.raises(BackendAway, match="5 operations"):
        backlog.admit([HERE])
    async with bus.partition(HERE, 10) as consumer:
        taken = await consumer.batch(5)
        await consumer.ack_through(taken[-1].tag)
    await backlog.look()
    backlog.admit([HERE])


async def test_old_operations_are_a_backlog_while_something_waits() -> None:
    bus, lags = Bus(2), Told()
    backlog = made(bus, lags)
    lags.of = {HERE: 2_001}
    backlog.admit([HERE])
    await bus.publish_operation(HERE, b"{}", "1")
    await backlog.look()
    with pytest.raises(BackendAway, match=r"wait 2\.0 s"):
        backlog.admit([HERE])
    backlog.admit([THERE])
    async with bus.partition(HERE, 10) as consumer:
        await consumer.batch(1)
    # Given back, it waits again; then it is done.
    async with bus.partition(HERE, 10) as consumer:
        taken = await consumer.batch(1)
        await consumer.ack_through(taken[-1].tag)
    await backlog.look()
    backlog.admit([HERE])


async def test_an_idle_gateway_asks_nothing() -> None:
    bus = Bus(2)
    backlog = made(bus, Told())
    await backlog.look()
    assert bus.asked == 0
    backlog.admit([HERE])
    await backlog.look()
    await backlog.look()
    assert bus.asked == 1


async def test_what_cannot_be_looked_at_stays_as_it_was() -> None:
    bus, lags = Bus(2), Told()
    backlog = made(bus, lags)
    backlog.admit([HERE] * 3)
    bus.away, lags.of = True, None
    await backlog.look()
    with pytest.raises(BackendAway):
        backlog.admit([HERE])
