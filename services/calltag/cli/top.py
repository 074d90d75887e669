"""Work of `calltag top`: rates, backlog and sessions of the running processes, from the registry in Redis."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.table import Table

from calltag.core.backends import open_client
from calltag.core.settings import Settings
from calltag.core.store.keys import Keys
from calltag.core.store.processes import RedisProcesses, RunningProcess

_COUNTED = {"operations_accepted": "accepted/s", "operations_applied": "applied/s", "deliveries": "delivered/s"}
_SHOWN = {
    "http_connections": "connections",
    "cometd_sessions": "sessions",
    "partitions_owned": "partitions",
    "backlog_operations": "backlog",
    "oldest_operation_seconds": "oldest",
}


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """A process, and its rates since its renewal before the last one; None if there was none yet."""

    process: RunningProcess
    rates: Mapping[str, float | None]


def loads(now: Sequence[RunningProcess], before: Mapping[str, RunningProcess]) -> Sequence[ProcessLoad]:
    """Return the load of each process, compared with its former renewal."""
    return [ProcessLoad(each, _rates(each, before.get(each.instance))) for each in now]


def _rates(process: RunningProcess, former: RunningProcess | None) -> Mapping[str, float | None]:
    names = [name for name in _COUNTED if name in process.values]
    took_s = 0.0 if former is None else (process.seen_at_ms - former.seen_at_ms) / 1_000
    if former is None or took_s <= 0:
        return dict.fromkeys(names)
    return {name: max(0.0, process.values[name] - former.values.get(name, 0.0)) / took_s for name in names}


class Top:
    """Reads the registry repeatedly. Every method may raise StoreUnavailable."""

    def __init__(self, processes: RedisProcesses) -> None:
        self._processes = processes
        self._latest: dict[str, RunningProcess] = {}
        self._former: dict[str, RunningProcess] = {}

    async def look(self) -> Sequence[ProcessLoad]:
        """Return the present loads."""
        running = await self._processes.running()
        for each in running:
            latest = self._latest.get(each.instance)
            if latest is not None and latest.seen_at_ms != each.seen_at_ms:
                self._former[each.instance] = latest
            self._latest[each.instance] = each
        return loads(running, self._former)


@asynccontextmanager
async def top(settings: Settings) -> AsyncIterator[Top]:
    """Open the reader of the installation that the settings name."""
    client = open_client(settings, max_connections=2)
    try:
        yield Top(RedisProcesses(client, Keys(settings.redis.key_prefix)))
    finally:
        await client.close()


def table_of(found: Sequence[ProcessLoad]) -> Table:
    """Return the processes, and the sums of their values, as a table for a terminal."""
    table = Table("process", "version", *_COUNTED.values(), *_SHOWN.values(), box=None)
    for each in found:
        table.add_row(
            f"{each.process.service} {each.process.instance}", each.process.version,
            *(_rate(each.rates[name]) if name in each.rates else "" for name in _COUNTED),
            *(_value(name, each.process.values[name]) if name in each.process.values else "" for name in _SHOWN),
        )  # fmt: skip
    if len(found) > 1:
        table.add_section()
        table.add_row(
            f"all {len(found)}", "",
            *(_rate(_sum(each.rates[name] for each in found if name in each.rates)) for name in _COUNTED),
            *(_value(name, _total(name, found)) for name in _SHOWN),
        )  # fmt: skip
    return table


def _total(name: str, found: Sequence[ProcessLoad]) -> float:
    """Return the sum of a value; of an age, or of the fullest partition, the maximum."""
    values = [each.process.values[name] for each in found if name in each.process.values]
    return max(values, default=0.0) if name in {"oldest_operation_seconds", "backlog_operations"} else sum(values)


def _sum(rates: Iterable[float | None]) -> float | None:
    known = [each for each in rates if each is not None]
    return sum(known) if known else None


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}"


def _value(name: str, value: float) -> str:
    return f"{value:.1f} s" if name.endswith("_seconds") else f"{value:.0f}"


def public(each: ProcessLoad) -> Mapping[str, object]:
    """Return the JSON of a process."""
    process = each.process
    return {
        "service": process.service,
        "instance": process.instance,
        "version": process.version,
        "host": process.host,
        "pid": process.pid,
        "started_at_ms": process.started_at_ms,
        "clock_ahead_ms": process.clock_ahead_ms,
        "values": process.values,
        "per_second": each.rates,
    }
