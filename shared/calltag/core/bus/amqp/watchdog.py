"""The watch over connections, consumers and routes: what is dead without a sign is found here, and built anew.

A connection whose other end vanished is otherwise noticed after several heartbeats, and a consumer, a binding or an
exchange that the broker forgot not at all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from calltag.core.bus.amqp.consumer import AmqpConsumer
from calltag.core.bus.amqp.link import Link
from calltag.core.bus.amqp.metrics import BusMetrics
from calltag.core.bus.ports import BusError
from calltag.core.telemetry.conditions import Condition

log = structlog.get_logger()
_FAILED: Final = Condition("watch_failed", level="error")
_COMES_BACK_WITHIN_S: Final = 30.0
"""Who lost a consumer and has not tried to get it again for so long does not want it any more."""


@dataclass(slots=True, eq=False)
class Expected:
    """A consumer of the name that should be there, and is once it is set."""

    name: str
    consumer: AmqpConsumer | None = None


class Watchdog:
    """Knows the consumers that should be there, and looks whether they are, every `watch_s` seconds; `restore` is
    awaited each time."""

    def __init__(
        self, links: Sequence[Link], metrics: BusMetrics, watch_s: float, restore: Callable[[], Awaitable[None]]
    ) -> None:
        self._links = links
        self._metrics = metrics
        self._watch_s = watch_s
        self._restore = restore
        # Of one name there are two while a partition is back before its former consumer has left.
        self._expected: set[Expected] = set()
        self._missing_since_s: dict[str, float] = {}

    @property
    def consuming(self) -> int:
        """How many consumers are there."""
        return sum(each.consumer is not None for each in self._expected)

    @property
    def missing(self) -> int:
        """How many consumers should be there and are not."""
        now_s = asyncio.get_running_loop().time()
        return sum(now_s - since_s < _COMES_BACK_WITHIN_S for since_s in self._missing_since_s.values())

    @contextmanager
    def expecting(self, name: str) -> Iterator[Expected]:
        """Inside, a consumer of that name is built and used; if that fails, it is missing until it is there again."""
        expected = Expected(name)
        self._expected.add(expected)
        try:
            yield expected
        except BusError:
            if not any(each.name == name and each.consumer for each in self._expected if each is not expected):
                self._missing_since_s[name] = asyncio.get_running_loop().time()
            raise
        finally:
            self._expected.discard(expected)

    def there(self, expected: Expected, consumer: AmqpConsumer) -> None:
        """It is there."""
        expected.consumer = consumer
        self._missing_since_s.pop(expected.name, None)

    async def run(self) -> None:
        """Watch for as long as the task runs."""
        while True:
            await asyncio.sleep(self._watch_s)
            outcomes = await asyncio.gather(
                *(link.probe() for link in self._links),
                *map(self._watch, list(self._expected)),
                self._restore(),
                return_exceptions=True,
            )
            for unexpected in filter(None, outcomes):
                # The watch goes on whatever it runs into.
                _FAILED.fails(unexpected)
            self._forget()

    async def _watch(self, expected: Expected) -> None:
        consumer = expected.consumer
        if consumer is None:
            return
        try:
            wrong = await consumer.watch()
        except TimeoutError:
            # That closed the channel, or it does not answer; whether the connection does is asked at the same time.
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
