"""Watchdog over connections, consumers and routes: detects silent failures and triggers their repair.

Without it, a half-open connection is detected after several heartbeats, and a consumer, binding or exchange that
RabbitMQ lost never."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from calltag.core.broker.ports import BrokerError
from calltag.core.broker.rabbitmq.connection import Link
from calltag.core.broker.rabbitmq.consumer import AmqpConsumer
from calltag.core.broker.rabbitmq.metrics import BrokerObserver
from calltag.core.telemetry.conditions import Condition

log = structlog.get_logger()
_FAILED: Final = Condition("watch_failed", level="error")
_COMES_BACK_WITHIN_S: Final = 30.0
"""A lost consumer that is not opened again within this time is no longer expected."""


@dataclass(slots=True, eq=False)
class Expected:
    """An expected consumer of that name; `consumer` is set once it is active."""

    name: str
    consumer: AmqpConsumer | None = None


class Watchdog:
    """Checks the links and the expected consumers every `watch_s` seconds, and awaits `restore` each time."""

    def __init__(
        self, links: Sequence[Link], metrics: BrokerObserver, watch_s: float, restore: Callable[[], Awaitable[None]]
    ) -> None:
        self._links = links
        self._metrics = metrics
        self._watch_s = watch_s
        self._restore = restore
        # A name occurs twice while a partition is opened again before its former consumer is closed.
        self._expected: set[Expected] = set()
        self._missing_since_s: dict[str, float] = {}

    @property
    def consuming(self) -> int:
        """Number of active consumers."""
        return sum(each.consumer is not None for each in self._expected)

    @property
    def missing(self) -> int:
        """Number of consumers that were lost and not opened again."""
        now_s = asyncio.get_running_loop().time()
        return sum(now_s - since_s < _COMES_BACK_WITHIN_S for since_s in self._missing_since_s.values())

    @contextmanager
    def expecting(self, name: str) -> Iterator[Expected]:
        """Expect a consumer of that name in the context; after a BrokerError it is missing until it is active again."""
        expected = Expected(name)
        self._expected.add(expected)
        try:
            yield expected
        except BrokerError:
            if not any(each.name == name and each.consumer for each in self._expected if each is not expected):
                self._missing_since_s[name] = asyncio.get_running_loop().time()
            raise
        finally:
            self._expected.discard(expected)

    def there(self, expected: Expected, consumer: AmqpConsumer) -> None:
        """Note that an expected consumer is active."""
        expected.consumer = consumer
        self._missing_since_s.pop(expected.name, None)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(self._watch_s)
            outcomes = await asyncio.gather(
                *(link.probe() for link in self._links),
                *map(self._watch, list(self._expected)),
                self._restore(),
                return_exceptions=True,
            )
            for unexpected in filter(None, outcomes):
                # An unexpected error must not end the watch.
                _FAILED.fails(unexpected)
            self._forget()

    async def _watch(self, expected: Expected) -> None:
        consumer = expected.consumer
        if consumer is None:
            return
        try:
            wrong = await consumer.watch()
        except TimeoutError:
            # The channel is closed or does not respond; `probe` checks the connection at the same time.
            consumer.lose("the broker did not answer")
            return
        if wrong is not None:
            log.warning("consumer_lost", consumer=expected.name, cause=wrong)
            self._metrics.repaired("queue", wrong)

    def _forget(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for name, since_s in list(self._missing_since_s.items()):
            if now_s - since_s >= _COMES_BACK_WITHIN_S:
                del self._missing_since_s[name]
