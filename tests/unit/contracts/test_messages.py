"""Reading what came over the broker: what is wrong is told by its place, never by its value."""

from typing import Any

import orjson
import pytest

from calltag.core.contracts.operations import EVENT, NODE, OPERATION, WireError

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


def test_a_message_of_a_worker_that_names_no_such_users_is_read() -> None:
    assert NODE.decode(b'{"v":1,"events":[],"places":[],"replies":[]}').stale_users == ()


def test_a_message_of_a_gateway_that_knows_no_mute_left_out_is_read() -> None:
    action = {"name": "PartyChanged", "legs": [{"number": "15000", "state": "Held", "muted": False}]}
    message = {"operation": {**OPERATION_WITH_SECRET["operation"], "action": action}}
    assert OPERATION.decode(orjson.dumps(message)).operation.action.mute_unchanged == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("text", [b"", b"{", SECRET.encode(), b'{"%b"' % SECRET.encode(), b"\xff"])
def test_what_is_not_json_is_not_shown_either(text: bytes) -> None:
    for form in (OPERATION, NODE, EVENT):
        with pytest.raises(WireError) as error:
            form.decode(text)
        assert "json_invalid" in str(error.value)
        assert SECRET not in str(error.value) + repr(error.value)
