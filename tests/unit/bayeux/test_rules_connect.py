"""When a connect is held and what ends it.

Source: Bayeux protocol 1.0, section 4.2, and CometD's own server where that leaves a choice.
"""

import asyncio

import pytest

from parts.hubs import CALLS, Client, Installation, numbers


@pytest.mark.parametrize("advice", [None, {"timeout": 5_000}, {"timeout": 0}])
async def test_the_first_connect_after_a_handshake_is_answered_at_once(
    system: Installation, advice: dict[str, int] | None
) -> None:
    alice = Client()
    await alice.shake(system.one)
    turn = await alice.connect(system.one, **({"advice": advice} if advice else {}))
    assert (turn.held, turn.replies[0]["successful"]) == (None, True)


async def test_a_connect_with_timeout_0_is_answered_at_once(system: Installation) -> None:
    alice = await Client().begin(system.one)
    assert (await alice.connect(system.one, advice={"timeout": 0})).held is None


async def test_the_times_of_a_clients_advice_hold_for_one_connect(system: Installation) -> None:
    alice = await Client().begin(system.one)
    short = await alice.connect(system.one, advice={"timeout": 100, "interval": 5_000})
    assert short.held is not None
    assert short.held.resident.interval_ms == 5_000
    usual = await alice.connect(system.one)
    assert usual.held is not None
    assert usual.held.deadline_ms - short.held.deadline_ms > 2_000
    assert usual.held.resident.interval_ms == 10


async def test_no_connect_is_held_longer_than_the_advice_says(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one, advice={"timeout": 600_000})
    assert turn.held is not None
    assert turn.held.deadline_ms <= system.one.now_ms() + 5_000


async def test_events_stand_before_the_reply_that_brings_them(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1, 2)
    turn = await alice.connect(system.one)
    assert (numbers(turn.events), [reply["channel"] for reply in turn.replies]) == ([1, 2], ["/meta/connect"])


async def test_events_come_with_the_replies_of_connects_alone(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    message = {"channel": "/meta/subscribe", "clientId": alice.client_id, "subscription": "/v2/x"}
    assert (await alice.send(system.one, message)).events == []
    assert (await alice.poll(system.one))[0] == [1]


async def test_with_acknowledgment_an_event_ends_the_connect_over_a_stream_too(system: Installation) -> None:
    alice = await Client().begin(system.one, ack=True)
    turn = await alice.send(system.one, alice.connecting(), streaming=True)
    assert turn.held is not None
    await system.publish(1)
    assert turn.line.answered.is_set()
    assert (await alice.finish(system.one, turn))[0] == [1]


async def test_the_end_of_a_newer_connect_does_not_come_back_to_the_older(system: Installation) -> None:
    alice = await Client().begin(system.one)
    older, newer = await alice.connect(system.one), await alice.connect(system.one)
    assert older.line.is_replaced
    await system.publish(1)
    assert older.line.reply is None
    assert (await alice.finish(system.one, newer))[0] == [1]


async def test_a_connect_may_change_the_transport(system: Installation) -> None:
    alice = await Client().begin(system.one)
    for kind, streaming in (("websocket", True), ("long-polling", False)):
        turn = await alice.send(system.one, alice.connecting(connectionType=kind), streaming=streaming)
        assert turn.held is not None
        session = turn.held.resident.session
        assert (session.pushes, session.transport) == (streaming, kind)


async def test_a_disconnect_ends_a_held_connect_with_reconnect_none(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    waiting = asyncio.create_task(alice.finish(system.one, turn))
    assert (await alice.ask(system.one, "/meta/disconnect"))["successful"]
    events, reply = await waiting
    assert (events, reply["successful"], reply["advice"]["reconnect"]) == ([], True, "none")


async def test_a_connect_after_a_disconnect_is_told_to_shake_hands(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await alice.ask(system.one, "/meta/disconnect")
    _, reply = await alice.poll(system.one)
    assert (reply["error"], reply["advice"]["reconnect"]) == ("402::Unknown client", "handshake")


async def test_a_connect_beside_other_messages_is_answered_with_what_waits(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    other = {"channel": "/meta/unsubscribe", "clientId": alice.client_id, "subscription": CALLS}
    turn = await alice.send(system.one, alice.connecting(), other)
    assert (turn.held, numbers(turn.events)) == (None, [1])
