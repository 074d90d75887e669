"""The metrics of one process: a registry, and the gauges that are set at each scrape.

Each service declares its own families. Labels have few values, and none that users choose: names of operations,
statusCodes, patterns of routes, channels that calltag publishes on, partitions, names of checks and limits, transports,
reasons.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics import MetricWrapperBase

from calltag.core.telemetry.output import dropped_lines

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LATENCY_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
Family = TypeVar("Family", bound=MetricWrapperBase)


class BulkHistogram(Histogram):
    """A histogram that can observe one amount many times at once. It has no labels."""

    def observe_many(self, amount: float, times: int) -> None:
        """Observe the same amount so many times."""
        self._sum.inc(amount * times)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(times)


class Metrics:
    """The families of one process. A family that two services of a process declare is the same one."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._families: dict[str, MetricWrapperBase] = {}
        self._observers: list[Callable[[], None]] = []
        self._count_dropped_lines()

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Return the counter of that name; `_total` is added to it."""
        return self._family(name, lambda full: Counter(full, text, labels, registry=self.registry))

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Return the gauge of that name."""
        return self._family(name, lambda full: Gauge(full, text, labels, registry=self.registry))

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        """Return the histogram of that name."""
        return self._family(name, lambda full: Histogram(full, text, labels, buckets=buckets, registry=self.registry))

    def bulk_histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> BulkHistogram:
        """Return the histogram of that name."""
        return self._family(name, lambda full: BulkHistogram(full, text, buckets=buckets, registry=self.registry))

    def before_scrape(self, observe: Callable[[], None]) -> None:
        """Call `observe`, which sets gauges, before each exposition."""
        self._observers.append(observe)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text form."""
        for observe in self._observers:
            observe()
        return generate_latest(self.registry)

    def values(self, names: Iterable[str]) -> dict[str, float]:
        """Return the sums of these counters and gauges over all labels; those that this process lacks are left out."""
        for observe in self._observers:
            observe()
        families = {name: self._families[name] for name in names if name in self._families}
        return {
            name: sum(
                sample.value
                for metric in family.collect()
                for sample in metric.samples
                if not sample.name.endswith("_created")
            )
            for name, family in families.items()
        }

    def _family(self, name: str, declare: Callable[[str], Family]) -> Family:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = declare(f"calltag_{name}")
        return family  # type: ignore[return-value]

    def _count_dropped_lines(self) -> None:
        lines = self.counter("log_lines_dropped", "Log lines dropped because the output was read too slowly.")
        counted = 0

        def observe() -> None:
            nonlocal counted
            dropped = dropped_lines()
            lines.inc(dropped - counted)
            counted = dropped

        self.before_scrape(observe)
