"""Messages of clients to channels. Source: Bayeux protocol 1.0, sections 2.3 (service channels) and 5.1 (publish)."""

import pytest

from parts.hubs import CALLS, Client, Installation


@pytest.mark.parametrize("data", [{"a": 1}, [1], "x", None, 5])
async def test_a_message_on_a_service_channel_is_answered_whatever_its_data(system: Installation, data: object) -> None:
    alice = await Client().begin(system.one)
    reply = await alice.ask(system.one, "/service/x", data=data)
    assert reply == {"channel": "/service/x", "id": "7", "successful": True}


async def test_a_message_on_a_service_channel_reaches_no_client(system: Installation) -> None:
    alice, other = await Client().begin(system.one), await Client().begin(system.one)
    await other.subscribe(system.one, "/service/x")
    await alice.ask(system.one, "/service/x", data={"a": 1})
    for client in (alice, other):
        assert (await client.connect(system.one)).held is not None


@pytest.mark.parametrize("channel", [CALLS, "/v2/*", "/v2/**", "/other", "/meta/x", "/meta/subscribe/x"])
async def test_a_client_reaches_no_other_client(system: Installation, channel: str) -> None:
    alice, other = await Client().begin(system.one), await Client().begin(system.one)
    reply = await alice.ask(system.one, channel, data={"n": 1})
    assert (reply["successful"], reply["channel"], reply["id"]) == (False, channel, "7")
    assert (await other.connect(system.one)).held is not None


async def test_a_publish_needs_a_session(system: Installation) -> None:
    reply = await Client().ask(system.one, "/service/x", data={})
    assert (reply["successful"], reply["error"]) == (False, "402::Unknown client")
    assert "advice" not in reply
