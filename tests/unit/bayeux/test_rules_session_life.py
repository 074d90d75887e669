"""When a session ends. Source: CometD's documentation of `maxInterval` and its server's sweeping.

A session lives for timeout + interval + maxInterval from a connect that is suspended, and for interval + maxInterval
from an answer; a connection that ends does not end the session. The store keeps it for a second more, as its home saves
a little later.
"""

from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import digest_of
from parts.hubs import CALLS, KEYS, Client, Installation
from parts.store_commands import library

HELD_MS, ANSWERED_MS = 5_000 + 10 + 2_000, 10 + 2_000
SPARE_MS = 1_000


async def life_ms(system: Installation, client: Client) -> int:
    """How long the store keeps the session, once all is saved; -2 if there is none."""
    await system.settle()
    return int(await library(system.client).pttl(KEYS.cometd_session(UserId("alice"), digest_of(client.client_id))))


async def test_a_session_waits_for_its_first_connect_as_for_the_next(system: Installation) -> None:
    alice = Client()
    await alice.shake(system.one)
    assert ANSWERED_MS < await life_ms(system, alice) <= HELD_MS


async def test_expiry_runs_from_the_answer_of_a_connect(system: Installation) -> None:
    alice = await Client().begin(system.one)
    assert 0 < await life_ms(system, alice) <= ANSWERED_MS + SPARE_MS


async def test_a_held_connect_puts_expiry_off_until_after_its_answer(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await alice.connect(system.one)
    assert ANSWERED_MS + SPARE_MS < await life_ms(system, alice) <= HELD_MS + SPARE_MS


async def test_a_longer_interval_that_a_client_asked_for_prolongs_its_session(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await alice.poll(system.one, advice={"timeout": 0, "interval": 9_000})
    assert 9_000 < await life_ms(system, alice) <= 9_000 + 2_000 + SPARE_MS


async def test_other_messages_put_expiry_off_to_no_less_than_max_interval(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.settle()
    key = KEYS.cometd_session(UserId("alice"), digest_of(alice.client_id))
    system.loses_notices = True
    for channel in ("/meta/subscribe", "/meta/unsubscribe"):
        await library(system.client).pexpire(key, 500)
        await alice.ask(system.two, channel, subscription="/v2/x")
        assert 500 < await life_ms(system, alice) <= ANSWERED_MS


async def test_a_connection_that_ends_ends_no_session(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    system.one.sessions.abandon(turn.held)
    await system.publish(1)
    system.one.ahead_ms += ANSWERED_MS - 1_000
    system.one.sessions.tick()
    assert (await alice.poll(system.one))[0] == [1]


async def test_a_session_without_connects_is_swept_with_what_waits_in_it(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    # By the store's clock less time went by than by the node's.
    await library(system.client).pexpire(KEYS.cometd_session(UserId("alice"), digest_of(alice.client_id)), 100)
    system.one.ahead_ms += ANSWERED_MS + 1
    system.one.sessions.tick()
    await system.settle()
    assert (system.one.count("sessions_ended_total", reason="expired"), system.one.registry.residents) == (1, {})
    assert (await life_ms(system, alice), await system.registered()) == (-2, [])


async def test_an_abandoned_connect_is_swept_no_later_than_an_answered_one(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    system.one.sessions.abandon(turn.held)
    system.one.ahead_ms += ANSWERED_MS + 1
    system.one.sessions.tick()
    assert system.one.registry.residents == {}


async def test_a_late_deadline_of_an_older_connect_does_not_end_a_newer_one(system: Installation) -> None:
    alice = await Client().begin(system.one)
    system.one.ahead_ms += ANSWERED_MS - 100
    turn = await alice.connect(system.one)
    system.one.ahead_ms += 200
    system.one.sessions.tick()
    assert turn.held is not None
    assert system.one.registry.has(turn.held.resident)


async def test_a_session_that_expired_is_unknown_on_every_node(system: Installation) -> None:
    """Its home, if it lives, answers from memory until it saves, which it does soon."""
    alice = await Client().begin(system.one)
    await system.settle()
    await library(system.client).delete(KEYS.cometd_session(UserId("alice"), digest_of(alice.client_id)))
    turn = await alice.connect(system.one)
    await system.settle()
    assert system.one.registry.residents == {}
    for connecting in (alice.finish(system.one, turn), alice.poll(system.one), alice.poll(system.two)):
        _, reply = await connecting
        assert (reply["error"], reply["advice"]["reconnect"]) == ("402::Unknown client", "handshake")
    for node in (system.one, system.two):
        assert (await alice.subscribe(node, CALLS))["error"] == "402::Unknown client"
