"""Reading what came over the bus: what is wrong is told by its place, never by its value."""

from typing import Any

import orjson
import pytest

from calltag.core.domain.ids import UserId
from calltag.core.wire.messages import EVENT, NODE, OPERATION, WireError, stale_message

SECRET = "MOST-SECRET-4711"
OPERATION_WITH_SECRET: dict[str, Any] = {
    "operation": {
        "id": "o1", "call_id": "c1", "subject": "call", "accepted_at_ms": 1,
        "action": {"name": "AttachUserData", "pairs": [["key", SECRET]]},
    },
}  # fmt: skip


def test_a_message_that_is_right_is_read() -> None:
    action = OPERATION.decode(orjson.dumps(OPERATION_WITH_SECRET)).operation.action
    assert action.pairs == (("key", SECRET),)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"operation": {**OPERATION_WITH_SECRET["operation"], "accepted_at_ms": SECRET}}, "accepted_at_ms"),
        ({"operation": {**OPERATION_WITH_SECRET["operation"], "subject": SECRET}}, "operation"),
        ({"operation": {**OPERATION_WITH_SECRET["operation"], "action": {"name": SECRET}}}, "action"),
        ({"operation": {**OPERATION_WITH_SECRET["operation"], "action": SECRET}}, "action"),
        (OPERATION_WITH_SECRET | {"v": SECRET}, "v: literal_error"),
        (SECRET, "message"),
    ],
)
def test_an_error_names_the_place_and_shows_nothing_of_the_message(wrong: object, place: str) -> None:
    with pytest.raises(WireError) as error:
        OPERATION.decode(orjson.dumps(wrong))
    assert place in str(error.value)
    assert SECRET not in str(error.value) + repr(error.value)
    assert (error.value.__cause__, error.value.__suppress_context__) == (None, True)


def test_users_whose_streams_are_to_be_read_are_named_in_a_message_without_events() -> None:
    message = NODE.decode(stale_message([UserId("alice"), UserId("bob")]))
    assert message == NODE.decode(NODE.encode(message))
    assert (message.stale_users, message.events, message.replies) == (("alice", "bob"), (), ())
    assert all(place.event >= len(message.events) for place in message.places)


def test_a_message_of_a_worker_that_names_no_such_users_is_read() -> None:
    assert NODE.decode(b'{"v":1,"events":[],"places":[],"replies":[]}').stale_users == ()


@pytest.mark.parametrize("text", [b"", b"{", SECRET.encode(), b'{"%b"' % SECRET.encode(), b"\xff"])
def test_what_is_not_json_is_not_shown_either(text: bytes) -> None:
    for form in (OPERATION, NODE, EVENT):
        with pytest.raises(WireError) as error:
            form.decode(text)
        assert "json_invalid" in str(error.value)
        assert SECRET not in str(error.value) + repr(error.value)
