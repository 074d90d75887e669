"""What waits for the workers, as the gateway knows it."""

from collections import Counter
from collections.abc import Mapping

import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import BrokerUnavailable, Partition, PublishedCounts
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.metrics import Metrics
from calltag.gateway.backlog import Backlog
from calltag.gateway.errors import BackendUnavailable
from calltag.gateway.metrics import GatewayMetrics

HERE, THERE = Partition(0), Partition(1)


class Broker(MemoryBroker):
    away = False
    asked = 0

    async def depth(self, partition: Partition) -> int:
        self.asked += 1
        if self.away:
            raise BrokerUnavailable("away")
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


class Totals:
    """What several gateways published, in one process."""

    def __init__(self) -> None:
        self.of: Counter[tuple[Partition, str]] = Counter()

    async def add(self, published: Mapping[Partition, PublishedCounts]) -> Mapping[Partition, PublishedCounts]:
        for partition, since in published.items():
            self.of[partition, "m"] += since.messages
            self.of[partition, "o"] += since.operations
        return {each: PublishedCounts(self.of[each, "m"], self.of[each, "o"]) for each in published}


class Packing(MemoryBroker):
    """One gateway's side of a broker that several share: messages hold `per_message` operations of it."""

    def __init__(self, waiting: list[int], per_message: int) -> None:
        super().__init__(1)
        self._waiting = waiting
        self._per_message = per_message
        self._published = PublishedCounts()

    async def publish_operation(self, partition: Partition, body: bytes, message_id: str) -> None:  # noqa: ARG002
        operations = self._published.operations + 1
        if self._published.operations % self._per_message == 0:
            self._waiting.append(operations)
        self._published = PublishedCounts(-(-operations // self._per_message), operations)

    async def depth(self, _: Partition) -> int:
        return len(self._waiting)

    def published(self, _: Partition) -> PublishedCounts:
        return self._published


def made(broker: Broker, lags: Told) -> Backlog:
    return Backlog(broker, lags, Totals(), GatewayMetrics(Metrics()), most=3, most_age_ms=2_000)


async def test_what_was_published_counts_until_it_is_known_to_be_gone() -> None:
    broker = Broker(2)
    backlog = made(broker, Told())
    backlog.admit([HERE] * 3)
    with pytest.raises(BackendUnavailable, match="3 operations wait") as refused:
        backlog.admit([HERE])
    assert refused.value.http_status == 503
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 3
    backlog.admit([THERE])
    await backlog.look()
    backlog.admit([HERE])


async def test_a_deep_queue_takes_no_more_until_it_is_shorter() -> None:
    broker = Broker(2)
    backlog = made(broker, Told())
    backlog.admit([HERE])
    for number in range(5):
        await broker.publish_operation(HERE, b"{}", str(number))
    await backlog.look()
    with pytest.raises(BackendUnavailable, match="5 operations"):
        backlog.admit([HERE])
    async with broker.partition(HERE, 10) as consumer:
        taken = await consumer.batch(5)
        await consumer.ack_through(taken[-1].tag)
    await backlog.look()
    backlog.admit([HERE])


async def test_old_operations_are_a_backlog_while_something_waits() -> None:
    broker, lags = Broker(2), Told()
    backlog = made(broker, lags)
    lags.of = {HERE: 2_001}
    backlog.admit([HERE])
    await broker.publish_operation(HERE, b"{}", "1")
    await backlog.look()
    with pytest.raises(BackendUnavailable, match=r"wait 2\.0 s"):
        backlog.admit([HERE])
    backlog.admit([THERE])
    async with broker.partition(HERE, 10) as consumer:
        await consumer.batch(1)
    # Given back, it waits again; then it is done.
    async with broker.partition(HERE, 10) as consumer:
        taken = await consumer.batch(1)
        await consumer.ack_through(taken[-1].tag)
    await backlog.look()
    backlog.admit([HERE])


async def test_where_nothing_waits_any_more_no_age_is_left_behind() -> None:
    broker, lags, metrics = Broker(2), Told(), Metrics()
    backlog = Backlog(broker, lags, Totals(), GatewayMetrics(metrics), most=3, most_age_ms=2_000)

    def shown() -> tuple[float | None, float | None]:
        get = metrics.registry.get_sample_value
        return get("calltag_backlog_operations"), get("calltag_backlog_age_seconds")

    lags.of = {HERE: 9_000, THERE: 20_000}
    await broker.publish_operation(HERE, b"{}", "1")
    backlog.admit([HERE])
    await backlog.look()
    assert shown() == (1, 9)
    async with broker.partition(HERE, 10) as consumer:
        taken = await consumer.batch(1)
        await consumer.ack_through(taken[-1].tag)
    await backlog.look()
    assert shown() == (0, 0)
    # What was old is done: nothing of it is held against what comes in a burst.
    backlog.admit([HERE] * 3)


async def test_a_gateway_that_publishes_little_knows_what_waits_of_those_that_publish_much() -> None:
    waiting: list[int] = []
    totals, busy, light = Totals(), Packing(waiting, 64), Packing(waiting, 1)
    of_busy = Backlog(busy, Told(), totals, GatewayMetrics(Metrics()), most=5_000)
    of_light = Backlog(light, Told(), totals, GatewayMetrics(Metrics()), most=5_000)
    of_light.admit([HERE])
    await light.publish_operation(HERE, b"{}", "o")
    await of_light.look()
    for _ in range(4_992):
        of_busy.admit([HERE])
        await busy.publish_operation(HERE, b"{}", "o")
    await of_busy.look()
    await of_light.look()
    assert len(waiting) == 79
    for _ in range(7):
        of_light.admit([HERE])
    with pytest.raises(BackendUnavailable, match="5000 operations"):
        of_light.admit([HERE])


async def test_an_idle_gateway_asks_nothing() -> None:
    broker = Broker(2)
    backlog = made(broker, Told())
    await backlog.look()
    assert broker.asked == 0
    backlog.admit([HERE])
    await backlog.look()
    await backlog.look()
    assert broker.asked == 1


async def test_what_cannot_be_looked_at_stays_as_it_was() -> None:
    broker, lags = Broker(2), Told()
    backlog = made(broker, lags)
    backlog.admit([HERE] * 3)
    broker.away, lags.of = True, None
    await backlog.look()
    with pytest.raises(BackendUnavailable):
        backlog.admit([HERE])
