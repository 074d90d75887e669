"""P3 and P4 with many clients: whichever notifier is killed or restarted, no client misses or doubles anything.

Settings by environment: CALLTAG_TEST_CHAOS_S, for how many seconds notifiers are killed; CALLTAG_TEST_CHAOS_ROUNDS, how
often each is restarted; CALLTAG_TEST_CHAOS_RATE, events a second.
"""

import asyncio
import itertools
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher

from clients.swarm import Member, Seen, Swarm, swarm
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, behind_haproxy

pytestmark = pytest.mark.alone

USERS = 100
RATE = float(os.environ.get("CALLTAG_TEST_CHAOS_RATE", "300"))
KILLING_S = float(os.environ.get("CALLTAG_TEST_CHAOS_S", "15"))
ROUNDS = int(os.environ.get("CALLTAG_TEST_CHAOS_ROUNDS", "1"))
KILL_EVERY_S = 5.0
BATCH = 25
KINDS = list(itertools.product(("cometd-3", "cometd-9"), ("long-polling", "websocket"), (True, False)))
MEMBERS = [
    Member(f"user-{number % USERS}", *KINDS[(number + number // USERS) % len(KINDS)]) for number in range(2 * USERS)
]


def directory(folder: Path) -> str:
    """A contact centre of that many users with one device each, and one password."""
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("demo")
    users = [f'[[users]]\nid = "switch"\npassword_hash = "{hashed}"\nroles = ["switch"]\n']
    users += [
        f'[[users]]\nid = "user-{number}"\npassword_hash = "{hashed}"\nfeatures = ["api-voice"]\n'
        f'[[users.devices]]\nid = "device-{number}"\nnumber = "{20000 + number}"\n'
        for number in range(USERS)
    ]
    file = folder / "directory.toml"
    file.write_text("\n".join(users))
    return str(file)


@pytest.fixture
def system(tmp_path: Path, rabbitmq: RabbitMq, redis_server: RedisServer, amqp_prefix: str) -> Iterator[System]:
    redis_server.clear()
    settings = {
        "CALLTAG_DIRECTORY__DEMO": "false",
        # Longer than the front takes to notice.
        "CALLTAG_DRAIN_DELAY_S": "4",
        "CALLTAG_DIRECTORY__FILE": directory(tmp_path),
        # The load leaves no time to measure what other tests do.
    }
    with behind_haproxy(tmp_path, rabbitmq.url, redis_server.url, amqp_prefix, **settings) as running:
        yield running


class Switch:
    """Has one call of each user change its state, again and again."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.versions: Counter[int] = Counter()
        """The version of the call of each user."""

    async def tell(self, users: range) -> None:
        """One more change of each of these users' calls."""
        self.versions.update(users)
        answer = await self._http.post("/api/v2/switch/events", json=[self._event(user) for user in users])
        assert (answer.status_code, answer.json()) == (200, {"statusCode": 0}), answer.text

    def _event(self, user: int) -> dict[str, Any]:
        version = self.versions[user]
        state = "Held" if version % 2 else "Established"
        return {
            "eventId": f"{user}-{version}",
            "eventType": "CallStarted" if version == 1 else "PartyChanged",
            "id": f"CALL{user}",
            "parties": [{"phoneNumber": str(20000 + user), "state": state}],
        }

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Tell at the rate while the context is open."""
        ending = asyncio.Event()
        began, before = time.monotonic(), self.versions.total()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_until(ending))
            try:
                yield
            finally:
                ending.set()
        print(f"{(self.versions.total() - before) / (time.monotonic() - began):.0f} events a second")

    async def _tell_until(self, ending: asyncio.Event) -> None:
        began = time.monotonic()
        for turn in itertools.count(1):
            if ending.is_set():
                return
            first = turn * BATCH % USERS
            await self.tell(range(first, first + BATCH))
            await asyncio.sleep(max(0.0, began + turn * BATCH / RATE - time.monotonic()))


@asynccontextmanager
async def many(system: System) -> AsyncIterator[tuple[Switch, Swarm]]:
    """The switch, and all clients, subscribed."""
    async with (
        swarm(f"{system.cometd_url}/genesys/cometd", "/v2/me/calls", "demo", MEMBERS) as clients,
        httpx.AsyncClient(base_url=system.gateway_url, auth=("switch", "demo"), timeout=20) as http,
    ):
        yield Switch(http), clients


def is_complete(each: Seen, switch: Switch) -> bool:
    user = int(each.member.user.removeprefix("user-"))
    return len({event_id for _, _, event_id, _ in each.events}) >= switch.versions[user]


async def all_seen(switch: Switch, clients: Swarm) -> list[Seen]:
    """What the clients saw once each has all that there is. Fails if that does not come about."""

    async def are_complete() -> bool:
        return all(is_complete(each, switch) for each in await clients.seen())

    try:
        await eventually(are_complete, within_s=30)
    except AssertionError:
        for each in await clients.seen():
            if not is_complete(each, switch):
                print("incomplete:", each.member, each.missed, each.failures[-5:], missing(each, switch)[:20])
        raise
    return await clients.seen()


def missing(each: Seen, switch: Switch) -> list[int]:
    user = int(each.member.user.removeprefix("user-"))
    return sorted(set(range(1, switch.versions[user] + 1)) - set(each.versions().get(f"CALL{user}", [])))


def assert_nothing_is_amiss(all_of_them: list[Seen], switch: Switch) -> None:
    """Every version once, but for repeats, and in order; and nobody had to begin again."""
    for each in all_of_them:
        user = int(each.member.user.removeprefix("user-"))
        assert each.versions() == {f"CALL{user}": list(range(1, switch.versions[user] + 1))}, each.member
        assert (each.handshakes, each.missed) == (1, 0), each.member


@pytest.mark.timeout(300 + 2 * KILLING_S)
async def test_many_clients_miss_nothing_while_notifiers_are_killed(system: System) -> None:
    async with many(system) as (switch, clients):
        async with switch.telling():
            names = itertools.cycle(system.upstreams)
            began = time.monotonic()
            while time.monotonic() < began + KILLING_S:
                due = time.monotonic() + KILL_EVERY_S
                name = next(names)
                system.programs[name].kill()
                await asyncio.to_thread(system.start_notifier, name)
                # The kills are that far apart; nothing is waited for.
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        seen = await all_seen(switch, clients)
    assert_nothing_is_amiss(seen, switch)
    # Without failures nothing was tried.
    assert any(each.failures for each in seen)


@pytest.mark.timeout(300)
async def test_many_clients_see_no_failure_while_notifiers_are_restarted(system: System) -> None:
    async with many(system) as (switch, clients):
        async with switch.telling():
            for name in [*system.upstreams] * ROUNDS:
                assert await asyncio.to_thread(system.programs[name].stop) == 0
                await asyncio.to_thread(system.start_notifier, name)
        seen = await all_seen(switch, clients)
    assert_nothing_is_amiss(seen, switch)
    failures = Counter(f"{each.member.transport} {failure}" for each in seen for failure in each.failures)
    assert failures == {}, failures
    assert not re.search("(request|websocket)_failed", system.logs())
