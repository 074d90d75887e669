"""Advice. Source: Bayeux protocol 1.0, section 5.8; CometD's JavaScript client replaces an advice as a whole."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from parts.hubs import Client, Installation

Reply = dict[str, Any]
DRAINED_MS = 4_000
"""Less than a connect is suspended, and more than a drain takes."""


async def begun(system: Installation) -> Reply:
    return await Client().shake(system.one)


async def refused(system: Installation) -> Reply:
    return await Client(None).shake(system.one)


async def draining(system: Installation) -> Reply:
    system.one.server.drain()
    return await Client().shake(system.one)


async def connected(system: Installation) -> Reply:
    alice = Client()
    await alice.shake(system.one)
    return (await alice.poll(system.one))[1]


async def timed_out(system: Installation) -> Reply:
    alice = await Client().begin(system.one)
    return (await alice.poll(system.one, advice={"timeout": 1}))[1]


async def unknown(system: Installation) -> Reply:
    return (await Client().poll(system.one))[1]


async def ended(system: Installation) -> Reply:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    await alice.ask(system.one, "/meta/disconnect")
    return (await alice.finish(system.one, turn))[1]


async def drained(system: Installation) -> Reply:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    system.one.server.drain()
    system.one.ahead_ms += DRAINED_MS
    return (await alice.finish(system.one, turn))[1]


async def replaced(system: Installation) -> Reply:
    alice = await Client().begin(system.one)
    older = await alice.connect(system.one)
    await alice.connect(system.one)
    assert older.held is not None
    return system.one.sessions.replies.without_events(older.held)


async def failed(system: Installation) -> Reply:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    return system.one.sessions.replies.without_events(turn.held, has_failed=True)


Situation = Callable[[Installation], Coroutine[Any, Any, Reply]]


@pytest.mark.parametrize(
    ("situation", "reconnect"),
    [
        (begun, "retry"),
        (refused, "none"),
        (draining, "retry"),
        (connected, "retry"),
        (timed_out, "retry"),
        (unknown, "handshake"),
        (ended, "none"),
        (drained, "retry"),
        (replaced, "retry"),
        (failed, "retry"),
    ],
)
async def test_every_reply_to_a_handshake_or_a_connect_has_a_whole_advice(
    system: Installation, situation: Situation, reconnect: str
) -> None:
    advice = (await situation(system))["advice"]
    assert set(advice) == {"reconnect", "interval", "timeout"}
    assert (advice["reconnect"], advice["timeout"]) == (reconnect, 5_000)
    assert type(advice["interval"]) is int


@pytest.mark.parametrize("channel", ["/meta/subscribe", "/meta/unsubscribe", "/meta/disconnect", "/service/x"])
async def test_replies_to_other_messages_have_none(system: Installation, channel: str) -> None:
    alice = await Client().begin(system.one)
    for client in (alice, Client()):
        assert "advice" not in await client.ask(system.one, channel, subscription="/v2/x", data={})
