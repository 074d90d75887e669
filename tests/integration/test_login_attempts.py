"""Wrong passwords: so many, and then none is looked at for a while, not even the right one, by any process."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from starlette.applications import Starlette

from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import User, directory
from calltag.core.identity.login_attempts import AttemptLimits, By, LockedOut, RedisLoginAttempts
from calltag.core.identity.passwords import Passwords
from calltag.core.store.client import RedisClient, redis_client
from calltag.core.store.scripts import ScriptBatcher
from parts.both_in_process import both_in_process
from parts.in_process import in_process
from parts.store_commands import library

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
CENTRE = directory(tuple(User(UserId(name), CHEAP.hash("right")) for name in ("alice", "bob")))


@dataclass
class Counted:
    """Implements AttemptObserver."""

    wrong: int = 0
    locked: list[By] = field(default_factory=list)

    def login_failed(self) -> None:
        self.wrong += 1

    def login_locked_out(self, by: By) -> None:
        self.locked.append(by)


@dataclass
class Process:
    """What one process knows of logins."""

    client: RedisClient
    limits: AttemptLimits
    ahead_s: float = 0.0
    counted: Counted = field(default_factory=Counted)

    def __post_init__(self) -> None:
        batcher = ScriptBatcher(self.client)
        loop = asyncio.get_running_loop()
        attempts = RedisLoginAttempts(
            batcher, "test", self.limits, self.counted, clock_s=lambda: loop.time() + self.ahead_s
        )
        self.passwords = Passwords(CENTRE, concurrency=2, attempts=attempts)

    async def outcome(self, name: str, password: str, address: str = "192.0.2.1") -> str:
        try:
            return "in" if await self.passwords.check(name, password, address) else "out"
        except LockedOut as locked:
            return f"locked out: {locked}".split(" in ", maxsplit=1)[0]


LOCKED = "locked out: too many failed logins; try again"
LIMITS = AttemptLimits(per_user=3, per_address=6, window_s=100)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    made = redis_client(redis_url, deadline_s=5)
    yield made
    await made.close()


@pytest.mark.parametrize("name", ["alice", "nobody", "é\ud800"])
async def test_a_user_is_locked_out_by_all_processes_and_a_right_password_is_told_the_same(
    client: RedisClient, name: str
) -> None:
    one, two = Process(client, LIMITS), Process(client, LIMITS)
    assert await one.outcome("alice", "right") == "in"
    tried = [await process.outcome(name, f"wrong {each}") for each, process in enumerate((one, two, one))]
    assert tried == ["out"] * 3
    for process in (two, one):
        assert await process.outcome(name, "wrong") == LOCKED
        assert await process.outcome(name, "right") == LOCKED
    assert await one.outcome("bob", "right") == "in"
    assert (one.counted.wrong, two.counted.wrong) == (2, 1)
    assert one.counted.locked == ["user", "user"]


async def test_an_address_is_locked_out_whichever_names_it_tries(client: RedisClient) -> None:
    process = Process(client, LIMITS)
    for each in range(6):
        assert await process.outcome(f"name {each}", "wrong") == "out"
    assert await process.outcome("alice", "right") == LOCKED
    assert await process.outcome("alice", "right", "192.0.2.2") == "in"
    assert process.counted.locked == ["address"]


async def test_many_at_once_are_no_way_round(client: RedisClient) -> None:
    processes = [Process(client, LIMITS) for _ in range(3)]
    tries = [
        process.outcome("alice", f"wrong {each}", f"192.0.2.{each}") for each in range(10) for process in processes
    ]
    outcomes = await asyncio.gather(*tries)
    assert outcomes.count("out") == 3
    assert outcomes.count(LOCKED) == 27


async def test_right_passwords_are_not_counted_however_many_come_at_once(client: RedisClient) -> None:
    process = Process(client, LIMITS)
    assert set(await asyncio.gather(*(process.outcome("alice", "right") for _ in range(50)))) == {"in"}
    for _ in range(20):
        fresh = Process(client, LIMITS)
        assert await fresh.outcome("alice", "right") == "in"


async def test_it_ends_with_the_window(client: RedisClient) -> None:
    process = Process(client, AttemptLimits(per_user=1, per_address=0, window_s=100))
    assert await process.outcome("alice", "wrong") == "out"
    assert await process.outcome("alice", "right") == LOCKED
    [key] = await library(client).keys("test:attempts:user:*")
    assert 90_000 < await library(client).pttl(key) <= 100_000
    await library(client).delete(key)
    process.ahead_s = 101
    assert await process.outcome("alice", "right") == "in"


async def test_the_loop_goes_on_while_passwords_are_hashed(
    client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, go = Process(client, LIMITS), threading.Event()
    threads: set[str] = set()

    def verify(_stored: str, _password: str) -> bool:
        threads.add(threading.current_thread().name)
        assert go.wait(20), "the loop stood still"
        return False

    monkeypatch.setattr(process.passwords, "_verify", verify)
    checks = [asyncio.ensure_future(process.outcome(f"user {each}", "wrong", "")) for each in range(10)]
    while not threads:  # noqa: ASYNC110 - a thread makes it hold
        await asyncio.sleep(0.001)
    go.set()
    assert await asyncio.gather(*checks) == ["out"] * 10
    assert 1 <= len(threads) <= 2
    assert all(name.startswith("passwords") for name in threads)


async def test_what_clients_and_operators_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits: dict[str, Any] = {"failures_per_user": 2, "failures_per_address": 0, "window_s": 77}
    async with in_process(tmp_path, login=limits) as gateway:
        texts = []
        for name in ("alice", "nobody"):
            transport = httpx.ASGITransport(gateway.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test/api/v2") as http:
                tried = [await http.get("/me", auth=(name, "a-wrong-one")) for _ in range(2)]
                assert [each.status_code for each in tried] == [401, 401]
                locked = await http.get("/me", auth=(name, "demo"))
            assert (locked.status_code, locked.json()["statusCode"]) == (429, 20)
            assert 0 < int(locked.headers["Retry-After"]) <= 77
            texts.append([tried[0].text, locked.json()["statusMessage"].partition(" in ")[0]])
        assert texts[0] == texts[1]
        exposed = gateway.backends.metrics.exposition().decode()
    assert "calltag_logins_failed_total 4.0" in exposed
    assert 'calltag_logins_locked_out_total{by="user"} 2.0' in exposed
    written = capsys.readouterr()
    assert "login_locked_out" in written.out + written.err
    assert "a-wrong-one" not in written.out + written.err


async def test_cometd_tells_the_same(tmp_path: Path) -> None:
    async with both_in_process(tmp_path, login={"failures_per_user": 1, "window_s": 77}) as app:
        assert isinstance(app.app, Starlette)
        hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
        shown = {"ext": {"authentication": {"user": "alice", "password": "wrong"}}}
        first = await app.http.post("/genesys/cometd", json=[hello | shown])
        assert first.json()[0]["successful"] is False
        locked = await app.http.post("/genesys/cometd", json=[hello | shown])
        by_basic = await app.http.post("/genesys/cometd", json=[hello], auth=("alice", "demo"))
        for answer in (locked, by_basic):
            assert (answer.status_code, answer.headers["Retry-After"].isdigit()) == (429, True)
