"""Sessions that watch calls of others, on two nodes."""

import pytest

from calltag.core.bayeux.events import Position
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import digest_of
from calltag.core.store.event_log import PER_MS
from calltag.core.store.sessions import NotKept
from calltag.notifier.channel_policy import check_watched
from parts.hubs import KEYS, Client, Installation
from parts.store_commands import library

OF_BOB = "/v2/users/bob/calls"


async def test_replay_of_what_was_not_watched_is_refused_not_passed_over(system: Installation) -> None:
    [before] = await system.publish(1)
    alice = await Client().begin(system.one)
    subscription = {"subscription": OF_BOB, "ext": {"replay": {OF_BOB: before}}}
    refused = await alice.ask(system.one, "/meta/subscribe", **subscription)
    assert (refused["successful"], refused["error"][:5]) == (False, "400::")
    for wanted in (-2, -1):
        subscription["ext"] = {"replay": {OF_BOB: wanted}}
        assert (await alice.ask(system.two, "/meta/subscribe", **subscription))["successful"]


def test_only_what_is_watched_is_judged_by_the_time_of_the_watch() -> None:
    early, late = Position(9 * PER_MS), Position(11 * PER_MS)
    check_watched({"/v2/me/calls": early, OF_BOB: late, "/v2/calls": None}, 10)
    with pytest.raises(NotKept):
        check_watched({OF_BOB: early}, 10)


@pytest.mark.parametrize("channel", ["/service/x", "/meta/subscribe", "/meta/unsubscribe"])
async def test_any_message_keeps_a_session_alive_and_listed(system: Installation, channel: str) -> None:
    alice = await Client().begin(system.one)
    client, digest = library(system.client), digest_of(alice.client_id)
    name, listed = KEYS.cometd_session(UserId("alice"), digest), KEYS.cometd_sessions(UserId("alice"))
    await client.pexpire(name, 500)
    await client.zadd(listed, {digest: 1})
    assert (await alice.ask(system.two, channel, subscription="/v2/me/calls", data={}))["successful"]
    assert await client.pttl(name) > 500
    assert (await client.zscore(listed, digest) or 0) > 1


async def test_a_node_to_which_events_go_by_mistake_ends_that(system: Installation) -> None:
    await system.one.store.register([UserId("alice")])
    assert await system.registered() == [system.one.name]
    system.one.sessions.registrations.note_unrouted_event("alice")
    await system.settle()
    assert await system.registered() == []
