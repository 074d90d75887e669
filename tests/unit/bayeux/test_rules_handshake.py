"""How a session begins. Source: Bayeux protocol 1.0, section 4.1, and CometD's documentation of negotiation."""

from typing import Any

import pytest

from calltag.core.domain.ids import UserId
from parts.hubs import HELLO, KEYS, Client, Installation
from parts.store_commands import library


async def sessions(system: Installation, user: str = "alice") -> int:
    """How many sessions the store has of the user."""
    count: Any = await library(system.client).zcard(KEYS.cometd_sessions(UserId(user)))
    return int(count)


@pytest.mark.parametrize("change", [{"version": "7"}, {"supportedConnectionTypes": ["iframe"]}, {"version": None}])
async def test_a_handshake_that_is_refused_makes_no_session(system: Installation, change: dict[str, object]) -> None:
    reply = await Client().shake(system.one, **change)
    assert (reply["successful"], "clientId" in reply, reply["advice"]["reconnect"]) == (False, False, "none")
    assert await sessions(system) == 0


async def test_each_handshake_makes_a_session_of_its_own(system: Installation) -> None:
    alice = Client()
    first, second = await alice.shake(system.one), await alice.shake(system.one, clientId=alice.client_id)
    assert first["clientId"] != second["clientId"]
    assert await sessions(system) == 2


async def test_what_comes_with_a_handshake_is_ignored_wherever_it_stands(system: Installation) -> None:
    alice = await Client().begin(system.one)
    disconnect = {"channel": "/meta/disconnect", "clientId": alice.client_id}
    for messages in ([HELLO, disconnect], [disconnect, HELLO], [HELLO, HELLO]):
        [reply] = (await alice.send(system.one, *messages)).replies
        assert (reply["channel"], reply["successful"]) == ("/meta/handshake", True)
    assert (await alice.subscribe(system.one))["successful"]


async def test_the_advice_in_a_handshake_changes_no_times(system: Installation) -> None:
    alice = Client()
    reply = await alice.shake(system.one, advice={"timeout": 1, "interval": 7_777})
    assert reply["advice"] == {"reconnect": "retry", "interval": 10, "timeout": 5_000}
    await alice.poll(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    assert turn.held.deadline_ms - system.one.now_ms() > 1_000


@pytest.mark.parametrize("types", [["long-polling"], ["websocket"], ["callback-polling", "websocket", "long-polling"]])
async def test_the_server_names_all_its_connection_types_whatever_the_client_has(
    system: Installation, types: list[str]
) -> None:
    reply = await Client().shake(system.one, supportedConnectionTypes=types)
    assert {"websocket", "long-polling"} <= set(reply["supportedConnectionTypes"])


async def test_a_new_handshake_knows_no_subscriptions_and_no_events_of_the_last_session(system: Installation) -> None:
    alice = await Client().begin(system.one, ack=True)
    await system.publish(1)
    await alice.shake(system.one, ext={"ack": True})
    assert (await alice.poll(system.one))[0] == []
    await system.publish(2)
    assert (await alice.connect(system.one)).held is not None
