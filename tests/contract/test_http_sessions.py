"""HTTP sessions in the store: found by their token alone, and ended by idleness, by age, or on demand."""

from dataclasses import replace
from hashlib import sha256

import orjson
import pytest

from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import User
from calltag.core.identity.http_sessions import HttpSession, Login, RedisHttpSessions, csrf_token
from calltag.core.store.client import RedisClient
from calltag.core.store.scripts import ScriptBatcher
from parts.store_commands import library

ALICE, BOB = (Login(User(UserId(name), "hash")) for name in ("alice", "bob"))
IDLE_S, LIFETIME_S = 100, 1_000


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(client: RedisClient, clock: Clock) -> RedisHttpSessions:
    return RedisHttpSessions(client, ScriptBatcher(client), "t", idle_s=IDLE_S, lifetime_s=LIFETIME_S, clock_s=clock)


def name(session: HttpSession) -> str:
    return f"t:http:{sha256(session.token.encode()).hexdigest()}"


async def test_a_session_is_found_by_its_token(sessions: RedisHttpSessions) -> None:
    made = [await sessions.create(ALICE), await sessions.create(BOB)]
    assert len({each.token for each in made} | {csrf_token(each) for each in made}) == 4
    for each in made:
        assert await sessions.find(each.token) == each
    for unknown in ("", "none", "\ud800", name(made[0])):
        assert await sessions.find(unknown) is None


async def test_who_reads_the_store_learns_no_token(sessions: RedisHttpSessions, client: RedisClient) -> None:
    session = await sessions.create(ALICE)
    assert [each async for each in client.scan("*", "string", 100)] == [name(session).encode()]
    [listed] = [each async for each in client.scan("*", "zset", 100)]
    kept = str(await library(client).get(name(session))) + str(await library(client).zrange(listed, 0, -1))
    for secret in (session.token, csrf_token(session)):
        assert secret not in kept + listed.decode() + name(session)


@pytest.fixture
def displaced() -> list[int]:
    return []


@pytest.fixture
def bounded(client: RedisClient, clock: Clock, displaced: list[int]) -> RedisHttpSessions:
    return RedisHttpSessions(
        client, ScriptBatcher(client), "t", idle_s=IDLE_S, lifetime_s=LIFETIME_S, most_of_user=3,
        displaced=displaced.append, clock_s=clock,
    )  # fmt: skip


async def test_one_session_too_many_ends_the_one_that_was_not_used_for_longest(
    bounded: RedisHttpSessions, client: RedisClient, clock: Clock, displaced: list[int]
) -> None:
    used, unused, third = [await bounded.create(ALICE) for clock.now_s in (0.0, 1.0, 2.0)]
    other = await bounded.create(BOB)
    clock.now_s = 29.0
    await library(client).pexpire(name(used), 70_000)
    assert await bounded.find(used.token) == used
    clock.now_s = 30.0
    made = [await bounded.create(ALICE)]
    assert [await bounded.find(each.token) is not None for each in (used, unused, third)] == [True, False, True]
    clock.now_s = 31.0
    made += [await bounded.create(ALICE) for _ in range(2)]
    assert [await bounded.find(each.token) is not None for each in (used, third, *made)] == [False, False] + [True] * 3
    assert await bounded.find(other.token) == other, "each user has as many"
    assert displaced == [1, 1, 1]


async def test_sessions_that_ended_by_themselves_take_no_room(
    bounded: RedisHttpSessions, client: RedisClient, clock: Clock, displaced: list[int]
) -> None:
    clock.now_s = 0.0
    for each in [await bounded.create(ALICE) for _ in range(3)]:
        await library(client).delete(name(each))
    clock.now_s = IDLE_S + 1.0
    made = [await bounded.create(ALICE) for _ in range(3)]
    assert [await bounded.find(each.token) for each in made] == made
    assert displaced == []


async def test_a_session_is_kept_for_its_idle_time(sessions: RedisHttpSessions, client: RedisClient) -> None:
    session = await sessions.create(ALICE)
    assert 0.9 * IDLE_S * 1_000 < await library(client).pttl(name(session)) <= IDLE_S * 1_000


async def test_the_idle_time_begins_anew_with_each_use_to_a_tenth(
    sessions: RedisHttpSessions, client: RedisClient
) -> None:
    session = await sessions.create(ALICE)
    for left_ms, begins_anew in ((95_000, False), (85_000, True), (5_000, True)):
        await library(client).pexpire(name(session), left_ms)
        assert await sessions.find(session.token) == session
        assert (await library(client).pttl(name(session)) > 95_000) is begins_anew


async def test_a_session_that_is_used_all_the_time_ends_all_the_same(
    sessions: RedisHttpSessions, client: RedisClient, clock: Clock
) -> None:
    session = await sessions.create(ALICE)
    clock.now_s += LIFETIME_S - 1
    assert await sessions.find(session.token) == session
    clock.now_s += 1
    assert await sessions.find(session.token) is None
    assert not await library(client).exists(name(session))


async def test_a_session_that_was_ended_is_gone(sessions: RedisHttpSessions, client: RedisClient) -> None:
    ended, other = await sessions.create(ALICE), await sessions.create(ALICE)
    await sessions.end(ended.token)
    assert await sessions.find(ended.token) is None
    assert [each async for each in client.scan("*", "string", 100)] == [name(other).encode()]


async def test_a_session_ends_with_the_token_that_began_it(sessions: RedisHttpSessions, clock: Clock) -> None:
    early = await sessions.create(Login(ALICE.user, clock.now_s + 50))
    late = await sessions.create(Login(BOB.user, clock.now_s + 2 * LIFETIME_S))
    assert await sessions.find(early.token) == early
    assert early.ends_at == clock.now_s + 50
    clock.now_s += 50
    assert await sessions.find(early.token) is None
    assert await sessions.find(late.token) == late
    clock.now_s += LIFETIME_S
    assert await sessions.find(late.token) is None


async def test_a_session_of_an_older_version_began_with_no_credential(
    sessions: RedisHttpSessions, client: RedisClient
) -> None:
    made = await sessions.create(ALICE)
    record = orjson.loads(await library(client).get(name(made)) or b"")
    assert record.pop("credential") == ALICE.user.credential
    await library(client).set(name(made), orjson.dumps(record))
    assert await sessions.find(made.token) == replace(made, credential="")
