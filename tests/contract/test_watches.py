"""Who watches whom, and what that does to streams: the same tests on Redis, on the embedded Valkey and on fakeredis."""

import pytest

from calltag.core.bayeux.events import BEGINNING
from calltag.core.domain.ids import UserId
from calltag.core.store.client import RedisClient
from calltag.core.store.event_log import Addition, RedisEventLog
from calltag.core.store.keys import Keys
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.watches import RedisWatches, Watched
from parts.eventually import eventually

KEYS = Keys("calltag-test")
ALICE, BOB, CAROL, ADMIN = (UserId(name) for name in ("alice", "bob", "carol", "admin"))
EVENT = [Addition("call:C", 1, b"event")]


@pytest.fixture
def batcher(client: RedisClient) -> ScriptBatcher:
    return ScriptBatcher(client)


@pytest.fixture
def streams(client: RedisClient, batcher: ScriptBatcher) -> RedisEventLog:
    return RedisEventLog(client, batcher, KEYS, most_events=100, most_events_of_watcher=300)


@pytest.fixture
def watches(client: RedisClient, batcher: ScriptBatcher) -> RedisWatches:
    return RedisWatches(client, batcher, KEYS)


async def test_whoever_adds_learns_who_watches(streams: RedisEventLog, watches: RedisWatches) -> None:
    await watches.begin(CAROL, Watched(frozenset({ALICE})))
    await watches.begin(ADMIN, Watched(frozenset({ALICE, BOB}), all=True))
    appended = await streams.append({ALICE: EVENT, BOB: EVENT})
    assert (sorted(appended[ALICE].watchers), sorted(appended[BOB].watchers)) == ([ADMIN, CAROL], [ADMIN])
    assert await watches.of_all() == [ADMIN]


async def test_a_watch_ends_with_its_lease(
    client: RedisClient, batcher: ScriptBatcher, streams: RedisEventLog, watches: RedisWatches
) -> None:
    brief = RedisWatches(client, batcher, KEYS, lease_ms=1)
    await brief.begin(CAROL, Watched(frozenset({ALICE}), all=True))
    await watches.begin(ADMIN, Watched(frozenset({ALICE}), all=True))

    async def only_admin() -> bool:
        watchers = (await streams.append({ALICE: EVENT}))[ALICE].watchers
        return [*watchers, *(await watches.of_all())] == [ADMIN, ADMIN]

    await eventually(only_admin)


async def test_what_a_watcher_is_to_get_is_put_off(streams: RedisEventLog, watches: RedisWatches) -> None:
    await watches.begin(CAROL, Watched(frozenset({ALICE})))
    appended = await streams.append({CAROL: EVENT, ALICE: EVENT})
    assert (appended[CAROL].deferred, appended[CAROL].places, appended[ALICE].deferred) == (True, [], False)
    assert not (await streams.read(CAROL, BEGINNING, 10)).entries
    added = (await streams.append({CAROL: EVENT}, to_watchers=True))[CAROL]
    assert not added.deferred
    assert [entry.event for entry in (await streams.read(CAROL, BEGINNING, 10)).entries] == [b"event"]


async def test_more_is_kept_for_a_watcher(streams: RedisEventLog, watches: RedisWatches) -> None:
    await watches.begin(CAROL, Watched(frozenset({ALICE})))
    for number in range(1, 601, 50):
        some = [Addition("call:C", version, b"e") for version in range(number, number + 50)]
        await streams.append({CAROL: some, ALICE: some}, to_watchers=True)
    assert len((await streams.read(ALICE, BEGINNING, 1_000)).entries) < 250
    assert 300 <= len((await streams.read(CAROL, BEGINNING, 1_000)).entries) < 450


async def test_a_watch_that_is_renewed_goes_on_and_one_that_ended_begins_anew(
    client: RedisClient, batcher: ScriptBatcher, watches: RedisWatches
) -> None:
    brief = RedisWatches(client, batcher, KEYS, lease_ms=1)
    first = await brief.begin(CAROL, Watched(frozenset({ALICE})))

    async def begins_anew() -> bool:
        return await brief.begin(CAROL, Watched(frozenset({ALICE}))) > first

    await eventually(begins_anew)
    long = await watches.begin(ADMIN, Watched(all=True))
    later = await watches.begin(ADMIN, Watched(frozenset({BOB}), all=True))
    assert long <= later
    assert await watches.begin(ADMIN, Watched(all=True)) == long
