"""What holds for every message. Source: Bayeux protocol 1.0, sections 2.1 (names), 2.2 (fields) and 3.1 (envelope)."""

import string
from typing import Any

import orjson
import pytest

from calltag.core.bayeux.channels import is_name
from calltag.core.bayeux.messages import BayeuxLimits, decode, encode
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import new_client_id
from parts.hubs import CALLS, HELLO, Client, Installation

META: list[tuple[str, dict[str, Any]]] = [
    ("/meta/connect", {"connectionType": "long-polling"}),
    ("/meta/subscribe", {"subscription": "/v2/x"}),
    ("/meta/unsubscribe", {"subscription": CALLS}),
    ("/meta/disconnect", {}),
    ("/service/x", {"data": {}}),
]


@pytest.mark.parametrize("text", [b'{"channel":"/a"}', b'[{"channel":"/a"}]'])
def test_a_request_is_an_array_of_messages_or_one_message(text: bytes) -> None:
    assert decode(text, BayeuxLimits()) == [{"channel": "/a"}]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_answer_is_always_an_array(count: int) -> None:
    assert orjson.loads(encode([], [{"successful": True}] * count)) == [{"successful": True}] * count


@pytest.mark.parametrize(
    ("channel", "fields", "known"), [(*each, True) for each in META] + [(*each, False) for each in META[:-1]]
)
async def test_a_reply_repeats_channel_and_id(
    system: Installation, channel: str, fields: dict[str, Any], known: bool
) -> None:
    alice = await Client().begin(system.one)
    client_id = alice.client_id if known else new_client_id(UserId("alice"), bearer=False)
    if channel == "/meta/connect":
        fields = fields | {"advice": {"timeout": 0}}
    reply = await alice.ask(system.one, channel, **fields, clientId=client_id)
    assert (reply["channel"], reply["id"]) == (channel, "7")
    assert reply["successful"] is known


@pytest.mark.parametrize("channel", ["/meta/connect", "/meta/disconnect"])
async def test_a_message_without_an_id_is_answered_without_one(system: Installation, channel: str) -> None:
    alice = await Client().begin(system.one)
    message = alice.connecting(advice={"timeout": 0}) | {"channel": channel}
    del message["id"]
    [reply] = (await alice.send(system.one, message)).replies
    assert reply["successful"]
    assert "id" not in reply


async def test_replies_come_in_the_order_of_the_messages(system: Installation) -> None:
    alice = await Client().begin(system.one)
    messages = [alice.connecting(id=str(number)) | {"channel": channel, **fields}
                for number, (channel, fields) in enumerate(META)]  # fmt: skip
    turn = await alice.send(system.one, *messages)
    assert [reply["id"] for reply in turn.replies] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("mark", [*string.ascii_letters, *string.digits, *"-_!~()$@"])
def test_a_segment_of_a_channel_holds_every_mark_of_the_grammar(mark: str) -> None:
    assert is_name(f"/{mark}")
    assert is_name(f"/a{mark}/{mark}b")


@pytest.mark.parametrize("mark", [*"*?&%=<>|\\^`'\";:,[]", "\n", "\t", "\0", "ä", "\ud800"])
def test_a_segment_of_a_channel_holds_nothing_else(mark: str) -> None:
    assert not is_name(f"/{mark}")
    assert not is_name(f"/a{mark}b")


@pytest.mark.parametrize("bearer", [True, False])
def test_a_client_id_is_random_by_128_bits_and_more_in_letters_and_digits(bearer: bool) -> None:
    ids = [new_client_id(UserId("alice"), bearer=bearer) for _ in range(400)]
    assert all(each.isascii() and each.isalnum() for each in ids)
    varying = [place for place in range(len(ids[0])) if len({each[place] for each in ids}) > 16]
    assert 5 * len(varying) >= 128
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("ack", [True, False])
async def test_a_delivered_event_has_channel_and_data_and_never_a_client_id(system: Installation, ack: bool) -> None:
    alice = await Client().begin(system.one, ack=ack)
    await system.publish(1)
    [event] = (await alice.connect(system.one)).events
    assert orjson.loads(event) == {"channel": CALLS, "data": {"n": 1}}


async def test_every_message_but_a_handshake_needs_a_client_id(system: Installation) -> None:
    for channel, fields in META:
        message = {"channel": channel, **fields}
        [reply] = (await Client().send(system.one, message)).replies
        assert (reply["successful"], str(reply["error"])[:3]) == (False, "402")
    [reply] = (await Client().send(system.one, HELLO)).replies
    assert reply["successful"]
