"""Registry of running processes in Redis, for operators: service, version, clock and a few values of each."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import orjson
from pydantic import TypeAdapter, ValidationError

from calltag.core import VERSION
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.keys import Keys
from calltag.core.store.ports import StoreUnavailable

RENEW_S: Final = 5.0
_LIVES_MS: Final = 17_000
"""Age of the last renewal up to which a process counts as running."""
_FORGOTTEN_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A process as of its last renewal at `seen_at_ms`, by the clock of Redis.

    `clock_ahead_ms` is its own clock's difference to that. `internal_port` is at `address`, as seen from itself.
    """

    instance: str
    service: str
    version: str
    host: str
    address: str
    pid: int
    internal_port: int
    started_at_ms: int
    seen_at_ms: int = 0
    clock_ahead_ms: int = 0
    values: Mapping[str, float] = field(default_factory=dict)


_PROCESS: Final = TypeAdapter(RunningProcess)


def this_process(instance: str, service: str, internal_port: int) -> RunningProcess:
    """Return this process, not yet renewed."""
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        address = "127.0.0.1"
    started_at_ms = round(time.time() * 1_000)
    return RunningProcess(instance, service, VERSION, host, address, os.getpid(), internal_port, started_at_ms)


class RedisProcesses:
    """The registry, one hash. Every method may raise StoreUnavailable."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._name = keys.processes()

    async def now_ms(self) -> int:
        """Return the time of Redis, in Unix milliseconds."""
        seconds, microseconds = map(int, cast("list[bytes]", await self._client.script("clock")([self._name], [])))
        return seconds * 1_000 + microseconds // 1_000

    async def renew(self, process: RunningProcess, values: Mapping[str, float]) -> None:
        """Note that the process runs, with these values."""
        asked_ms = time.time() * 1_000
        now_ms = await self.now_ms()
        ahead_ms = round((asked_ms + time.time() * 1_000) / 2 - now_ms)
        record = _PROCESS.dump_python(process) | {
            "seen_at_ms": now_ms, "clock_ahead_ms": ahead_ms, "values": dict(values)
        }  # fmt: skip
        own = ("HSET", self._name, process.instance, orjson.dumps(record))
        await self._client.execute_all([own, ("PEXPIRE", self._name, _FORGOTTEN_MS)])

    async def leave(self, process: RunningProcess) -> None:
        """Remove the process."""
        await self._client.execute("HDEL", self._name, process.instance)

    async def running(self) -> Sequence[RunningProcess]:
        """Return the processes that run, by service and name."""
        now_ms = await self.now_ms()
        found = [each for _, each in await self._all() if each is not None and now_ms - each.seen_at_ms <= _LIVES_MS]
        return sorted(found, key=lambda each: (each.service, each.instance))

    async def forget_crashed(self) -> None:
        """Remove processes that ended without leaving, some minutes ago."""
        now_ms = await self.now_ms()
        old = [name for name, each in await self._all() if each is None or now_ms - each.seen_at_ms > _FORGOTTEN_MS]
        if old:
            await self._client.execute("HDEL", self._name, *old)

    async def _all(self) -> Sequence[tuple[bytes, RunningProcess | None]]:
        records = fields_of(await self._client.execute("HGETALL", self._name))
        return [(name, _parsed(raw)) for name, raw in records.items()]


def _parsed(raw: bytes) -> RunningProcess | None:
    """Return a record; None if another version wrote it in a form that this one does not know."""
    try:
        return _PROCESS.validate_json(raw)
    except ValidationError:
        return None


async def keep_registered(
    processes: RedisProcesses, process: RunningProcess, values: Callable[[], Mapping[str, float]]
) -> None:
    """Renew the registration until cancelled, then remove it. Operators alone miss it while Redis is unavailable."""
    has_cleaned = False
    try:
        while True:
            try:
                await processes.renew(process, values())
                if not has_cleaned:
                    await processes.forget_crashed()
                    has_cleaned = True
            except StoreUnavailable:
                pass
            await asyncio.sleep(RENEW_S)
    finally:
        try:
            async with asyncio.timeout(1.0):
                await processes.leave(process)
        except (StoreUnavailable, TimeoutError):
            pass
