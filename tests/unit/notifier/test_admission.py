"""Whom a node lets in, and what it tells those that it does not."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from calltag.core.bayeux import errors
from calltag.core.bayeux.messages import BayeuxLimit, BayeuxLimits
from calltag.core.domain.ids import UserId
from calltag.core.identity.http_sessions import HttpSession
from calltag.core.process.limits import TokenBucket
from calltag.core.store.embedded import embedded_store
from calltag.notifier.authentication import Authentication, Caller
from calltag.notifier.browsers import UNLIMITED, Browsers, Origins
from calltag.notifier.http import CometdHttp
from calltag.notifier.session_registry import Crowded
from calltag.notifier.websocket import WebSockets
from parts.eventually import eventually
from parts.frames import opened
from parts.hubs import Client, Installation, Node
from parts.polls import Poll
from unit.notifier.conftest import Meanwhile

LIMITS = BayeuxLimits(max_sessions=3, max_sessions_per_address=2, handshakes_per_s=0.001, handshake_burst=4)


@pytest.fixture
async def crowded() -> AsyncIterator[Installation]:
    async with embedded_store(None, deadline_s=20) as store:
        installation = Installation(store.client, LIMITS, lease_ms=60_000)
        await installation.begin()
        yield installation
        await installation.settle()


async def full(node: Node) -> list[Client]:
    """A node with as many sessions as it may have."""
    return [await Client(f"u{number}").begin(node) for number in range(LIMITS.max_sessions)]


async def test_a_session_from_elsewhere_is_not_taken_in_by_a_full_node(crowded: Installation) -> None:
    sessions = await full(crowded.one)
    alice = await Client().begin(crowded.two)
    with pytest.raises(Crowded, match="CALLTAG_NOTIFIER__MAX_SESSIONS"):
        await alice.connect(crowded.one)
    assert crowded.one.limits() == {BayeuxLimit.SESSIONS: 1}
    assert crowded.two.registry.residents.keys() == {alice.client_id}, "it stays with who holds it"
    assert await crowded.registered() == [crowded.two.name]
    assert (await alice.connect(crowded.two)).held is not None
    assert (await sessions[0].connect(crowded.one)).held is not None, "its own are served on"


async def test_a_full_node_takes_sessions_in_again_when_one_has_ended(crowded: Installation) -> None:
    sessions = await full(crowded.one)
    alice = await Client().begin(crowded.two)
    await sessions[0].ask(crowded.one, "/meta/disconnect")
    assert (await alice.poll(crowded.one))[1]["successful"]
    assert crowded.one.registry.residents.keys() >= {alice.client_id}


async def test_sessions_that_arrive_at_once_do_not_pass_the_limit_together(crowded: Installation) -> None:
    clients = [await Client(f"u{number}").begin(crowded.two) for number in range(3)]
    await Client().begin(crowded.one)
    outcomes = await asyncio.gather(*(each.connect(crowded.one) for each in clients), return_exceptions=True)
    assert [isinstance(each, Crowded) for each in outcomes].count(True) == 1
    assert len(crowded.one.registry.residents) == LIMITS.max_sessions


async def test_sessions_of_an_address_are_bounded_before_they_connect(crowded: Installation) -> None:
    for user in ("a", "b"):
        assert (await Client(user, address="10.0.0.1").shake(crowded.one))["successful"]
    reply = await Client("c", address="10.0.0.1").shake(crowded.one)
    assert reply["error"] == errors.too_many_sessions(2)
    assert reply["advice"]["reconnect"] == "handshake"
    assert crowded.one.limits() == {BayeuxLimit.SESSIONS_OF_ADDRESS: 1}
    assert (await Client("c", address="10.0.0.2").shake(crowded.one))["successful"]
    assert (await Client("c", address="10.0.0.1").shake(crowded.two))["successful"], "each node counts for itself"


async def address_is_free(node: Node) -> bool:
    """Whether an address that had all its sessions may begin one more."""
    node.registry._handshakes = TokenBucket(1, 1)
    return bool((await Client("x", address="10.0.0.1").shake(node))["successful"])


async def two_of_an_address(node: Node) -> Client:
    await Client("other", address="10.0.0.1").begin(node)
    return await Client(address="10.0.0.1").begin(node)


async def test_a_session_that_ends_counts_no_more_for_its_address(crowded: Installation) -> None:
    alice = await two_of_an_address(crowded.one)
    assert not await address_is_free(crowded.one)
    await alice.ask(crowded.one, "/meta/disconnect")
    assert await address_is_free(crowded.one)


async def test_a_session_that_moves_away_counts_no_more_for_its_address(crowded: Installation) -> None:
    alice = await two_of_an_address(crowded.one)
    await alice.connect(crowded.two)
    await crowded.settle()
    assert await address_is_free(crowded.one)


async def test_a_session_begun_here_that_connects_elsewhere_counts_no_more(crowded: Installation) -> None:
    await Client("other", address="10.0.0.1").begin(crowded.one)
    alice = Client(address="10.0.0.1")
    await alice.shake(crowded.one)
    await alice.connect(crowded.two)
    await crowded.settle()
    assert await address_is_free(crowded.one)


async def test_a_session_that_ends_before_it_connects_counts_no_more(crowded: Installation) -> None:
    await Client("other", address="10.0.0.1").begin(crowded.one)
    alice = Client(address="10.0.0.1")
    await alice.shake(crowded.one)
    await alice.ask(crowded.two, "/meta/disconnect")
    await crowded.settle()
    assert await address_is_free(crowded.one)


async def test_a_session_that_never_connects_counts_until_its_end(crowded: Installation) -> None:
    await Client("other", address="10.0.0.1").begin(crowded.one)
    await Client(address="10.0.0.1").shake(crowded.one)
    crowded.one.ahead_ms = 39_000
    assert not await address_is_free(crowded.one)
    crowded.one.ahead_ms = 41_000
    assert await address_is_free(crowded.one)


async def test_a_session_counts_for_the_address_that_it_comes_from_now(crowded: Installation) -> None:
    alice = await two_of_an_address(crowded.one)
    alice.address = "10.0.0.9"
    await alice.connect(crowded.one)
    assert await address_is_free(crowded.one)


async def test_more_handshakes_than_are_answered_are_spread_over_time(crowded: Installation) -> None:
    for number in range(LIMITS.handshake_burst):
        assert (await Client(f"u{number}").shake(crowded.one))["successful"]

    class Unseen(Client):
        async def look(self) -> Caller:
            raise AssertionError("a caller who is not let in was looked for")

    replies = [await Unseen().shake(crowded.one) for _ in range(20)]
    assert {reply["error"] for reply in replies} == {"429:0.001:too_many_handshakes"}
    assert {reply["advice"]["reconnect"] for reply in replies} == {"handshake"}
    intervals = {reply["advice"]["interval"] for reply in replies}
    assert len(intervals) > 10
    assert all(2_000 <= interval <= 10_000 for interval in intervals)
    assert crowded.one.limits() == {BayeuxLimit.HANDSHAKES: 20}
    assert crowded.one.count("handshakes_total") == LIMITS.handshake_burst


async def test_who_shows_nothing_takes_no_handshakes_from_others(crowded: Installation) -> None:
    nobody = Client(None, address="10.0.0.1", shows_credentials=False)
    for _ in range(10 * LIMITS.handshake_burst):
        reply = await nobody.shake(crowded.one)
        assert (reply["error"], reply["advice"]["reconnect"]) == (errors.UNAUTHORIZED, "none")
    assert (crowded.one.limits(), crowded.one.count("refused_total", code="401")) == ({}, 40)
    assert (await Client(address="10.0.0.1").shake(crowded.one))["successful"]


class KnownCookie:
    """Knows the session cookie of a browser; implements what is used of an Authenticator."""

    async def identify(self, *_: object) -> SimpleNamespace:
        return SimpleNamespace(
            user=SimpleNamespace(id="alice"),
            session=HttpSession("secret", UserId("alice"), ""),
            by_cookie=True,
            set_cookie=None,
        )


async def test_a_connect_on_a_websocket_shows_no_token_for_the_ones_that_are_polled(system: Installation) -> None:
    cookie, server = [(b"cookie", b"JSESSIONID=abc")], system.one.server
    authentication = Authentication(cast("Any", KnownCookie()), csrf_protection=True)
    sockets = WebSockets(server, authentication, 1_000.0)
    http = CometdHttp(server, authentication, Origins(), Browsers(UNLIMITED), sockets, system.one.metrics, 10.0)
    alice = await Client().begin(system.one)

    async def status() -> int:
        poll = Poll(http, alice.connecting(advice={"timeout": 0}), headers=cookie)
        await poll.answered.wait()
        return poll.status

    assert await status() == 403
    frames = opened(sockets, headers=cookie)
    frames.come(alice.connecting(connectionType="websocket", id="w1", advice={"timeout": 0}))
    await eventually(lambda: [(each["id"], each["successful"]) for each in frames.said()] == [("w1", True)])
    assert await status() == 403


async def test_a_caller_is_trusted_from_the_time_when_it_was_checked(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim may take long, and the login may end meanwhile."""
    alice = await Client(login="mine").begin(system.one)
    await system.settle()
    checked_ms = system.two.now_ms()

    async def take_long() -> None:
        system.two.ahead_ms += 15_000

    Meanwhile(system.two.store, "take_over", take_long, monkeypatch)
    await alice.poll(system.two)
    lasts_ms = system.two.sessions.settings.credential_recheck_ms
    # This test itself takes a while.
    assert system.two.registry.residents[alice.client_id].proven_until_ms < checked_ms + lasts_ms + 10_000


@pytest.fixture
async def shared() -> AsyncIterator[Installation]:
    """Of four handshakes, an address may take two."""
    limits = replace(
        LIMITS, max_sessions_per_address=0, handshakes_per_s_per_address=0.001, handshake_burst_per_address=2,
        max_handshake_addresses=3,
    )  # fmt: skip
    async with embedded_store(None, deadline_s=20) as store:
        installation = Installation(store.client, limits, lease_ms=60_000)
        await installation.begin()
        yield installation
        await installation.settle()


async def test_an_address_takes_no_handshakes_from_others(shared: Installation) -> None:
    errors_of = [(await Client("a", address="10.0.0.1").shake(shared.one)).get("error") for _ in range(20)]
    assert errors_of == [None, None] + ["429:0.001:too_many_handshakes"] * 18
    assert shared.one.limits() == {BayeuxLimit.HANDSHAKES_OF_ADDRESS: 18}
    assert (await Client("b", address="10.0.0.2").shake(shared.one))["successful"]


async def test_addresses_of_one_ipv6_network_are_one(shared: Installation) -> None:
    shaken = [(await Client("a", address=f"2001:db8::{host}").shake(shared.one))["successful"] for host in range(4)]
    assert shaken == [True, True, False, False]
    assert (await Client("a", address="2001:db8:0:1::1").shake(shared.one))["successful"]


async def test_no_more_addresses_are_known_than_may_be(shared: Installation) -> None:
    for host in range(20):
        await Client("a", address=f"10.0.0.{host}").shake(shared.one)
    assert len(shared.one.registry._handshakes_of_addresses) == 3


def test_a_bucket_lets_a_burst_through_and_then_a_rate() -> None:
    bucket = TokenBucket(per_s=2, burst=3)
    assert [bucket.take(1_000) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(now) for now in (1_499, 1_500, 1_999, 2_000)] == [False, True, False, True]
    assert [bucket.take(60_000) for _ in range(4)] == [True, True, True, False], "no more than a burst is saved up"
