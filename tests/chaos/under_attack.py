"""One client's requests while others attack: how long its answers take, and how much memory the process takes.

Settings by environment: CALLTAG_TEST_HOSTILE_S, for how many seconds each group of attacks lasts;
CALLTAG_TEST_HOSTILE_ONLY, the name of the one attack to run, to find out which one of a group it is.
"""

import asyncio
import contextlib
import json
import os
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from chaos.hostile import Plan, Report
from parts.command import UNMEASURED
from parts.memory import resident_mb
from parts.processes import Program
from parts.raw_http import Address, connection, head
from parts.system import System

ATTACK_S = float(os.environ.get("CALLTAG_TEST_HOSTILE_S", "20"))
ONLY = os.environ.get("CALLTAG_TEST_HOSTILE_ONLY", "")
CALM_S = 2.0
PROBES_PER_S = 20
MOST_P95_S = 0.1
MOST_GROWTH_MB = 20.0
ANSWER_WITHIN_S = 15.0
TESTS = Path(__file__).parents[1]
SETTINGS = {
    "CALLTAG_LOG__LEVEL": "error",
    # So many that one attacker, with half of them, and all others together do not fill them.
    "CALLTAG_MAX_CONNECTIONS": "260",
    # The probes make no connect.
    "CALLTAG_NOTIFIER__MAX_INTERVAL_S": "600",
    # How long a busy machine takes proves nothing.
    "CALLTAG_REDIS__DEADLINE_S": "10",
}


@dataclass(frozen=True, slots=True)
class Victim:
    """The process under attack, the path attacked, and the request of another client, who is signed in."""

    program: Program
    address: Address
    path: str
    request: bytes
    shows: bytes
    """Bytes that the right answer contains."""
    ca_file: str = ""


@dataclass(slots=True)
class Probes:
    """Answers to the other client."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def quantile(self, part: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("inf")

    def __str__(self) -> str:
        return (
            f"{len(self.seconds)} requests of the other client: p50 {self.quantile(0.5) * 1000:.0f} ms, p95 "
            f"{self.quantile(0.95) * 1000:.0f} ms, longest {self.quantile(1) * 1000:.0f} ms, failures "
            f"{dict(self.failures) or 'none'}"
        )

    async def one(self, victim: Victim) -> None:
        """One request on a connection of its own."""
        began = time.monotonic()
        try:
            async with connection(victim.address) as opened:
                await opened.send([victim.request])
                answers = await opened.final(1, ANSWER_WITHIN_S)
        except (OSError, ssl.SSLError, EOFError) as error:
            self.failures[type(error).__name__] += 1
        else:
            if not answers:
                self.failures["no answer"] += 1
            elif answers[0].status != 200 or victim.shows not in answers[0].body:
                self.failures[f"{answers[0].status} {answers[0].body[:100]!r}"] += 1
        self.seconds.append(time.monotonic() - began)

    async def go_on(self, victim: Victim, seconds: float, rate: float) -> None:
        """So many a second, whether or not the ones before are answered."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * rate)):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                group.create_task(self.one(victim))


class RunQueue:
    """Time that a process ran, and time that it was ready and waited for a processor, since this was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = self._look()

    def slowdown(self) -> float:
        """Return the factor by which waiting for a processor delays the process; 1 on an idle machine."""
        ran, waited = (now - then for now, then in zip(self._look(), self._began, strict=True))
        return (ran + waited) / max(ran, 1)

    def _look(self) -> tuple[int, int]:
        ran, waited, _ = Path(f"/proc/{self._pid}/schedstat").read_text().split()
        return int(ran), int(waited)


@asynccontextmanager
async def watched_memory(program: Program) -> AsyncIterator[list[float]]:
    """The resident set, looked at four times a second while the context is open."""
    seen = [resident_mb(program.pid)]

    async def look_on() -> None:
        while True:
            await asyncio.sleep(0.25)
            seen.append(resident_mb(program.pid))

    looking = asyncio.create_task(look_on())
    try:
        yield seen
    finally:
        looking.cancel()


async def attacked(plan: Plan) -> Report:
    """Run an attack in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chaos.hostile", env={**os.environ, **UNMEASURED, "PYTHONPATH": str(TESTS)},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        told, _ = await process.communicate(json.dumps(asdict(plan)).encode())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return Report(**json.loads(told))


async def attack(
    victim: Victim, names: Iterable[str], rate: float = PROBES_PER_S, most_growth_mb: float = MOST_GROWTH_MB
) -> None:
    """All these attacks at once, each from an address of its own, and the other client meanwhile."""
    names = [name for name in names if ONLY in {"", name}]
    if not names:
        return
    calm, meanwhile = Probes(), Probes()
    await calm.go_on(victim, CALM_S, rate)
    assert not calm.failures, f"before the attack: {calm}"
    plans = [
        Plan(name, victim.address.port, victim.path, f"127.0.0.{number}", ATTACK_S, victim.ca_file)
        for number, name in enumerate(names, start=2)
    ]
    queues = [RunQueue(victim.program.pid), RunQueue(os.getpid())]
    async with watched_memory(victim.program) as memory, asyncio.TaskGroup() as tasks:
        attacks = [tasks.create_task(attacked(plan)) for plan in plans]
        await meanwhile.go_on(victim, ATTACK_S, rate)
    slowdown = max(each.slowdown() for each in queues)
    grown = max(memory) - memory[0]
    reports = [each.result() for each in attacks]
    told = "\n".join(["", *map(str, reports), f"memory grew by {grown:.1f} MB", f"{meanwhile}", f"before: {calm}"])
    assert all(each.connections for each in reports), f"an attack did not take place:{told}"
    assert victim.program.running, f"the process has ended:\n{victim.program.text()[-2000:]}"
    assert not meanwhile.failures, f"the other client was refused or failed:{told}"
    # The time without a processor is the fault of other programs on a busy machine.
    most = MOST_P95_S * slowdown
    assert meanwhile.quantile(0.95) < most, f"p95 of the other client is not below {most * 1000:.0f} ms:{told}"
    assert grown < most_growth_mb, f"memory grew by more than {most_growth_mb:.0f} MB:{told}"
    print(told)


@contextlib.contextmanager
def signed_in(system: System, verify: ssl.SSLContext | bool) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=system.gateway_url, verify=verify, timeout=20) as http:
        assert http.get("/api/v2/me", auth=("alice", "demo")).status_code == 200
        yield http


def own_request(http: httpx.Client) -> bytes:
    return head("GET /api/v2/me HTTP/1.1", "Host: localhost", f"Cookie: JSESSIONID={http.cookies['JSESSIONID']}")


def address(url: str, tls: ssl.SSLContext | None = None) -> Address:
    return Address(int(url.rpartition(":")[2]), source="127.0.0.1", tls=tls)
