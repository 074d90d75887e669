"""Subscriptions.

Source: Bayeux protocol 1.0, sections 2.1.1 (patterns), 4.3 and 4.4, and CometD's own server where these leave a choice.
"""

from typing import Any

import pytest

from calltag.core.bayeux.engine import BayeuxError, Engine
from calltag.core.bayeux.errors import subscribe_denied
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import digest_of
from parts.hubs import CALLS, KEYS, Client, Installation
from parts.store_commands import library


async def subscriptions(system: Installation, client: Client) -> set[str]:
    """The channels that the store has for the session."""
    fields: Any = await library(system.client).hkeys(KEYS.cometd_session(UserId("alice"), digest_of(client.client_id)))
    return {name.decode()[2:] for name in fields if name.startswith(b"s:")}


async def with_subscription(system: Installation, subscription: object) -> Client:
    alice = Client()
    await alice.shake(system.one)
    assert (await alice.subscribe(system.one, subscription))["successful"]
    await alice.poll(system.one)
    return alice


@pytest.mark.parametrize("subscription", ["/v2/*", "/v2/me/**"])
@pytest.mark.parametrize("by_broker", [True, False])
async def test_one_star_covers_one_segment_and_two_cover_all(
    system: Installation, subscription: str, by_broker: bool
) -> None:
    """Whether the event came to the session's home, or is read from the stream as the session moves."""
    alice = await with_subscription(system, subscription)
    await system.publish(1, by_broker=by_broker)
    polled = (
        alice.poll(system.one, advice={"timeout": 0}) if by_broker else alice.move(system.two, advice={"timeout": 0})
    )
    events, _ = await polled
    assert events == ([1] if subscription == "/v2/me/**" else [])


async def test_an_event_that_several_subscriptions_cover_is_delivered_once(system: Installation) -> None:
    alice = await with_subscription(system, [CALLS, "/v2/me/*", "/v2/**"])
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]
    assert (await alice.connect(system.one)).held is not None


async def test_a_second_subscription_to_a_channel_succeeds_and_changes_nothing(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    assert (await alice.subscribe(system.one))["successful"]
    assert (await alice.subscribe(system.one, [CALLS, CALLS]))["successful"]
    assert (await alice.move(system.two))[0] == [1]
    assert await subscriptions(system, alice) == {CALLS}


@pytest.mark.parametrize("name", ["/meta/connect", "/meta/*", "/meta/**"])
def test_meta_channels_are_nobodys_to_subscribe_to(name: str) -> None:
    engine = Engine(BayeuxLimits(), lambda *_: True, lambda *_: True)
    with pytest.raises(BayeuxError) as refused:
        engine.subscribe({"channel": "/meta/subscribe", "subscription": name}, "c1", "alice")
    assert refused.value.reply["error"] == subscribe_denied(name)


@pytest.mark.parametrize("bad", ["/meta/connect", "/other", "x", "/v2/*/a"])
async def test_one_channel_that_is_refused_leaves_all_as_it_was(system: Installation, bad: str) -> None:
    alice = await Client().begin(system.one)
    reply = await alice.subscribe(system.one, ["/v2/a", bad, "/v2/b"])
    assert (reply["successful"], reply["subscription"]) == (False, ["/v2/a", bad, "/v2/b"])
    assert await subscriptions(system, alice) == {CALLS}


async def test_a_subscription_to_a_service_channel_succeeds_and_is_not_kept(system: Installation) -> None:
    alice = await Client().begin(system.one)
    reply = await alice.subscribe(system.one, "/service/x")
    assert (reply["successful"], reply["subscription"]) == (True, "/service/x")
    assert await subscriptions(system, alice) == {CALLS}


@pytest.mark.parametrize("subscription", ["/v2/never", ["/v2/never", "/v2/other"], "/service/x"])
async def test_to_unsubscribe_from_what_is_not_subscribed_succeeds(system: Installation, subscription: object) -> None:
    alice = await Client().begin(system.one)
    reply = await alice.ask(system.one, "/meta/unsubscribe", subscription=subscription)
    assert (reply["successful"], reply["subscription"]) == (True, subscription)
    assert await subscriptions(system, alice) == {CALLS}


@pytest.mark.parametrize("bad", ["x", "/v2/*/a"])
async def test_one_name_that_is_none_leaves_all_subscribed(system: Installation, bad: str) -> None:
    alice = await Client().begin(system.one)
    reply = await alice.ask(system.one, "/meta/unsubscribe", subscription=[CALLS, bad])
    assert (reply["successful"], reply["error"]) == (False, f"403:{bad}:subscription_invalid")
    assert await subscriptions(system, alice) == {CALLS}


async def test_a_pattern_and_a_channel_under_it_are_two_subscriptions(system: Installation) -> None:
    alice = await with_subscription(system, [CALLS, "/v2/**"])
    await alice.ask(system.one, "/meta/unsubscribe", subscription="/v2/**")
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]


async def test_after_unsubscribe_nothing_comes_not_even_what_came_meanwhile(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await alice.ask(system.one, "/meta/unsubscribe", subscription=CALLS)
    await system.publish(1)
    assert (await alice.connect(system.one)).held is not None


async def test_a_session_may_subscribe_before_its_first_connect(system: Installation) -> None:
    alice = Client()
    await alice.shake(system.one)
    assert (await alice.subscribe(system.one))["successful"]
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]
