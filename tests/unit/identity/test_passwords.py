"""Passwords: right and wrong, remembered for a while, checked a few at a time."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher

from calltag.core.domain.agent import SYSTEM_STATES
from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import Directory, User, directory
from calltag.core.identity.login_attempts import TooManyLogins
from calltag.core.identity.passwords import Passwords

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
ALICE = User(UserId("alice"), CHEAP.hash("secret"))
BOB = User(UserId("bob"), CHEAP.hash("hidden"))
CENTRE = directory((ALICE, BOB))


class Hashing:
    """Counts the hashes that are verified; each waits until `go` is set."""

    def __init__(self, passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
        self.verified: list[str] = []
        self.running = 0
        self.most_running = 0
        self.go = threading.Event()
        self.go.set()
        self._lock = threading.Lock()
        self._verify: Callable[[str, str], bool] = passwords._verify
        monkeypatch.setattr(passwords, "_verify", self.verify)

    def verify(self, stored: str, password: str) -> bool:
        with self._lock:
            self.verified.append(stored)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.go.wait(10)
        with self._lock:
            self.running -= 1
        return self._verify(stored, password)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a thread makes it hold; no event of the loop tells
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("name", "password", "expected"),
    [
        ("alice", "secret", ALICE),
        ("alice", "Secret", None),
        ("alice", "", None),
        ("bob", "secret", None),
        ("nobody", "secret", None),
        ("alice", "s" * 1_025, None),
        ("alice", "\ud800", None),
        ("\ud800", "secret", None),
    ],
)
async def test_who_knows_the_password(name: str, password: str, expected: User | None) -> None:
    assert await Passwords(CENTRE).check(name, password) == expected


async def test_a_stored_hash_that_is_none_fits_nothing() -> None:
    broken = directory((User(UserId("eve"), "not a hash"),))
    assert await Passwords(broken).check("eve", "not a hash") is None


async def test_an_unknown_name_costs_a_hash_of_the_usual_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(CENTRE)
    hashing = Hashing(passwords, monkeypatch)
    assert await passwords.check("nobody", "x") is None
    (nobody,) = hashing.verified
    assert nobody.split("$")[:4] == ALICE.password_hash.split("$")[:4]


def test_an_empty_directory_is_fine() -> None:
    Passwords(directory(()))


async def test_a_success_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    passwords = Passwords(CENTRE, remember_s=10, clock_s=lambda: now[0])
    hashing = Hashing(passwords, monkeypatch)
    for now[0], hashes in ((0.0, 1), (9.9, 1), (10.0, 2), (10.1, 2)):
        assert await passwords.check("alice", "secret") is ALICE
        assert len(hashing.verified) == hashes


async def test_neither_failures_nor_other_passwords_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(CENTRE)
    hashing = Hashing(passwords, monkeypatch)
    assert await passwords.check("alice", "secret") is ALICE
    for _ in range(2):
        assert await passwords.check("alice", "wrong") is None
    assert await passwords.check("bob", "secret") is None
    assert len(hashing.verified) == 4


async def test_what_is_remembered_is_bounded_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(CENTRE, remember_most=1)
    hashing = Hashing(passwords, monkeypatch)
    for name, password in (("alice", "secret"), ("bob", "hidden"), ("alice", "secret")):
        assert await passwords.check(name, password)
    assert len(hashing.verified) == 3
    assert len(passwords._known) == 1
    assert "secret" not in repr(passwords._known)


async def test_a_new_hash_of_the_same_user_is_checked_anew() -> None:
    users: dict[UserId, User] = {ALICE.id: ALICE}
    passwords = Passwords(Directory(users, {}, {}, {}, SYSTEM_STATES))
    assert await passwords.check("alice", "secret")
    users[ALICE.id] = User(ALICE.id, CHEAP.hash("changed"))
    assert await passwords.check("alice", "secret") is None


async def test_a_burst_of_the_same_credentials_is_hashed_once_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(CENTRE, concurrency=2)
    hashing = Hashing(passwords, monkeypatch)
    found = await asyncio.gather(*(passwords.check("alice", "secret") for _ in range(50)))
    assert found == [ALICE] * 50
    assert len(hashing.verified) <= 2


async def test_few_are_hashed_at_a_time_even_if_callers_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(CENTRE, concurrency=2)
    hashing = Hashing(passwords, monkeypatch)
    hashing.go.clear()
    impatient = [asyncio.create_task(passwords.check("alice", f"wrong-{number}")) for number in range(4)]
    await until(lambda: hashing.running == 2)
    for task in impatient:
        task.cancel()
    await asyncio.gather(*impatient, return_exceptions=True)
    waiting = asyncio.create_task(passwords.check("bob", "hidden"))
    await until(lambda: passwords._threads._work_queue.qsize() >= 1)
    assert hashing.most_running == 2
    hashing.go.set()
    assert await waiting is BOB
    assert hashing.most_running == 2


async def test_too_many_waiting_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(CENTRE, concurrency=1, max_waiting=2)
    hashing = Hashing(passwords, monkeypatch)
    hashing.go.clear()
    waiting = [asyncio.create_task(passwords.check("alice", each)) for each in ("secret", "wrong")]
    await until(lambda: passwords._queue.taken == 2)
    with pytest.raises(TooManyLogins):
        await passwords.check("bob", "hidden")
    hashing.go.set()
    assert await asyncio.gather(*waiting) == [ALICE, None]
    assert await passwords.check("bob", "hidden") is BOB


async def test_an_address_leaves_places_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(CENTRE, concurrency=1, max_waiting=8)
    hashing = Hashing(passwords, monkeypatch)
    hashing.go.clear()
    waiting = [asyncio.create_task(passwords.check("alice", f"wrong {n}", "10.0.0.1")) for n in range(8)]
    await until(lambda: passwords._queue.taken == 4 and sum(each.done() for each in waiting) == 4)
    right = asyncio.create_task(passwords.check("bob", "hidden", "10.0.0.2"))
    hashing.go.set()
    assert await right is BOB
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in outcomes] == [type(None)] * 4 + [TooManyLogins] * 4


async def test_a_password_of_kilobytes_is_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(CENTRE)
    hashing = Hashing(passwords, monkeypatch)
    assert await passwords.check("alice", "s" * 2_048) is None
    assert await passwords.check("alice", "é" * 513) is None
    assert hashing.verified == []
    assert await passwords.check("alice", "é" * 512) is None
    assert len(hashing.verified) == 1
