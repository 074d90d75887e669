"""What a node is to get is cut into messages of bounded size, in order."""

import orjson
import pytest

from calltag.core.contracts.node_messages import PackedMessage, StreamPosition, node_messages, stale_messages
from calltag.core.contracts.operations import NODE, REPLY, OperationReply
from calltag.core.domain.ids import OperationId, UserId
from calltag.core.domain.status import StatusCode

ALICE, BOB = UserId("alice"), UserId("bob")
FRAME = len('{"v":1,"events":[],"places":[],"replies":[],"stale_users":[]}')


def event(number: int, size: int = 20) -> bytes:
    return orjson.dumps([number, "x" * size])


def place(user: UserId, position: int) -> StreamPosition:
    return StreamPosition(user, position, position - 1)


def reply(number: int) -> OperationReply:
    return OperationReply(operation_id=OperationId(f"o{number}"), code=StatusCode.SUCCESS)


def told(messages: list[PackedMessage]) -> list[tuple[str, int, int]]:
    """User, number of the event and position, in the order in which they come."""
    return [
        (each["user"], orjson.loads(message.body)["events"][each["event"]][0], each["position"])
        for message in messages
        for each in orjson.loads(message.body)["places"]
    ]


def test_what_there_is_for_a_node_goes_in_one_message_that_is_read_as_such() -> None:
    refused = (
        b'{"kind":"refused","id":"e","user":"alice","operation_name":"Hold","call_id":null,"code":1,"text":"",'
        b'"accepted_at_ms":0}'
    )
    [message] = node_messages([(refused, [place(ALICE, 7), place(BOB, 9)])], [reply(1)], 10_000)
    read = NODE.decode(message.body)
    assert [each.id for each in read.events] == ["e"]
    assert [(each.user, each.event, each.position, each.previous) for each in read.places] == [
        ("alice", 0, 7, 6), ("bob", 0, 9, 8),
    ]  # fmt: skip
    assert [each.operation_id for each in read.replies] == ["o1"]
    assert message.users == [ALICE, BOB]


def test_nothing_is_no_message() -> None:
    assert list(node_messages([], [], 100)) == []
    assert list(node_messages([(event(1), [])], [], 100)) == []
    assert list(stale_messages([], 100)) == []


def test_what_fits_to_the_byte_goes_together_and_a_byte_more_does_not() -> None:
    events = [(event(number), [place(ALICE, number)]) for number in (1, 2)]
    [whole] = node_messages(events, [], 10_000)
    assert len(list(node_messages(events, [], len(whole.body)))) == 1
    assert [len(each.body) < len(whole.body) for each in node_messages(events, [], len(whole.body) - 1)] == [True, True]


@pytest.mark.parametrize("max_bytes", [FRAME + 150, 300, 500, 1_000, 5_000])
def test_no_message_is_longer_and_each_user_gets_all_in_order(max_bytes: int) -> None:
    users = [UserId(f"user-{number}") for number in range(5)]
    events = [(event(number), [place(user, number) for user in users]) for number in range(1, 30)]
    messages = list(node_messages(events, [reply(number) for number in range(30)], max_bytes))
    assert max(len(each.body) for each in messages) <= max_bytes
    assert told(messages) == [(user, number, number) for number in range(1, 30) for user in users]
    replies = [each["operation_id"] for message in messages for each in orjson.loads(message.body)["replies"]]
    assert replies == [f"o{number}" for number in range(30)]


def test_a_single_event_that_is_larger_goes_alone() -> None:
    events = [(event(number, 20 if number != 2 else 2_000), [place(ALICE, number)]) for number in (1, 2, 3)]
    messages = list(node_messages(events, [], 500))
    assert [len(each.body) > 500 for each in messages] == [False, True, False]
    assert told(messages) == [("alice", number, number) for number in (1, 2, 3)]


def test_an_event_for_more_users_than_one_message_takes_comes_with_each_of_them_once() -> None:
    users = [UserId(f"user-{number}") for number in range(100)]
    messages = list(node_messages([(event(1, 200), [place(user, 5) for user in users])], [], 1_000))
    assert len(messages) > 5
    assert [len(orjson.loads(each.body)["events"]) for each in messages] == [1] * len(messages)
    assert told(messages) == [(user, 1, 5) for user in users]
    assert [user for each in messages for user in each.users] == users


def test_a_reply_that_is_larger_goes_alone() -> None:
    large = OperationReply(operation_id=OperationId("large"), code=StatusCode.SUCCESS, text="x" * 2_000)
    messages = list(node_messages([], [reply(1), large, reply(2)], 500))
    assert [len(NODE.decode(each.body).replies) for each in messages] == [1, 1, 1]
    assert len(messages[1].body) == FRAME + len(REPLY.encode(large))


def test_users_whose_streams_are_to_be_read_are_named_in_messages_without_events() -> None:
    users = [UserId(f"user-{number}") for number in range(50)]
    messages = list(stale_messages(users, 500))
    assert max(len(each.body) for each in messages) <= 500
    assert [user for each in messages for user in each.users] == users
    read = [NODE.decode(each.body) for each in messages]
    assert [user for each in read for user in each.stale_users] == users
    assert all((each.events, each.replies) == ((), ()) for each in read)
    # A notifier that does not read that field reads the streams of places without an event.
    assert all([place.user for place in each.places] == list(each.stale_users) for each in read)
