"""How exchanges and queues are declared: the broker refuses whatever is declared otherwise later."""

from dataclasses import dataclass, field, replace
from typing import Any, cast

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel

from calltag.core.broker.ports import NodeId
from calltag.core.broker.rabbitmq import RabbitMqSettings
from calltag.core.broker.rabbitmq.topology import Topology

SETTINGS = RabbitMqSettings(
    "amqp://nowhere/", prefix="t", partitions=2, queue_max_length=101, delivery_limit=102, inbox_expiry_s=103,
    inbox_max_bytes=104, parking_max_length=100,
)  # fmt: skip
PARTITION = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": 102,
    "x-dead-letter-exchange": "t.ops.dead",
    "x-dead-letter-strategy": "at-least-once",
    "x-max-length": 101,
    "x-overflow": "reject-publish",
}

PARKING = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 1_000_000_000,
    "x-max-length": 100,
    "x-overflow": "reject-publish",
}


@dataclass
class Named:
    """An exchange or a queue."""

    name: str
    bound: list[tuple[str, str]]

    async def bind(self, exchange: "Named | str", routing_key: str = "") -> None:
        source = exchange if isinstance(exchange, str) else exchange.name
        self.bound.append((f"{source} {routing_key}".strip(), self.name))


@dataclass
class Recorder:
    """A channel that notes what is declared, and does nothing."""

    exchanges: dict[str, ExchangeType] = field(default_factory=dict)
    queues: dict[str, dict[str, Any]] = field(default_factory=dict)
    bound: list[tuple[str, str]] = field(default_factory=list)

    async def declare_exchange(self, name: str, kind: ExchangeType, *, durable: bool) -> Named:
        assert durable
        self.exchanges[name] = kind
        return Named(name, self.bound)

    async def declare_queue(self, name: str, *, durable: bool, arguments: dict[str, Any]) -> Named:
        assert durable
        self.queues[name] = arguments
        return Named(name, self.bound)

    def channel(self) -> AbstractChannel:
        return cast("AbstractChannel", self)


async def test_operations_are_in_quorum_queues_that_lose_none() -> None:
    recorder = Recorder()
    await Topology(SETTINGS).declare(recorder.channel())
    assert recorder.exchanges == {
        "t.ops": ExchangeType.DIRECT, "t.events": ExchangeType.DIRECT, "t.ops.dead": ExchangeType.FANOUT,
    }  # fmt: skip
    assert recorder.queues == {
        "t.ops.dead": PARKING, "t.ops.p00": PARTITION, "t.ops.p01": PARTITION,
    }  # fmt: skip
    assert recorder.bound == [("t.ops.dead", "t.ops.dead"), ("t.ops p00", "t.ops.p00"), ("t.ops p01", "t.ops.p01")]


async def test_the_settings_may_say_how_many_nodes_keep_an_operation() -> None:
    recorder = Recorder()
    await Topology(replace(SETTINGS, replicas=5)).declare(recorder.channel())
    assert recorder.queues["t.ops.p00"] == {**PARTITION, "x-quorum-initial-group-size": 5}
    assert recorder.queues["t.ops.dead"]["x-quorum-initial-group-size"] == 5


async def test_an_inbox_is_a_classic_queue_that_ends_some_time_after_its_node() -> None:
    recorder = Recorder()
    await Topology(SETTINGS).declare_inbox(recorder.channel(), NodeId("n"), "t.events.n")
    assert recorder.exchanges == {"t.events": ExchangeType.DIRECT}
    assert recorder.queues == {
        "t.events.n": {"x-queue-type": "classic", "x-expires": 103_000, "x-max-length-bytes": 104}
    }
    assert recorder.bound == [("t.events n", "t.events.n")]
