"""What one user is told of an event."""

from dataclasses import replace

import pytest

from calltag.core.bayeux.events import Position, StreamedEvent
from calltag.core.contracts.operations import EVENT
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import CallChanged, DevicesChanged, NotificationType, OperationRefused
from calltag.core.domain.ids import CallId, ConnId, DeviceId, EventId, OperationId, UserId, refusal_id
from calltag.core.domain.status import StatusCode
from calltag.core.identity.directory import Role, User, directory
from calltag.core.store.event_log import Entry
from calltag.notifier.event_views import EventViews

ALICE, BOB, CAROL, ADMIN = UserId("alice"), UserId("bob"), UserId("carol"), UserId("admin")


CENTRE = directory(
    (
        User(ALICE, "", supervisors=frozenset({CAROL})),
        User(BOB, ""),
        User(CAROL, "", roles=frozenset({Role.SUPERVISOR})),
        User(ADMIN, "", roles=frozenset({Role.ADMINISTRATOR})),
    )
)


def published(user: UserId, *states: LegState, recipients: tuple[UserId, ...] = (ALICE, BOB)) -> StreamedEvent:
    """What is told of a call between two devices of alice's and one of bob's."""
    owners = (("15000", ALICE), ("15010", ALICE), ("15001", BOB))
    legs = tuple(
        Leg(number, state, DeviceId(f"d{number}"), owner) for (number, owner), state in zip(owners, states, strict=True)
    )
    call = Call(CallId("C"), ConnId("c"), CallType.INTERNAL, "15010", 0, legs, version=3)
    event = CallChanged(EventId("e"), NotificationType.STATUS_CHANGE, call, recipients, 0)
    return EventViews("http://u", CENTRE).published(user, event, Position(2), Position(1))


def told(user: UserId, *states: LegState) -> list[tuple[object, object, object]]:
    """Number, state and eventId of each message on the user's own channel."""
    told_of = published(user, *states)
    assert (told_of.position, told_of.previous) == (2, 1)
    found = []
    for each in told_of.events:
        assert each.channel == "/v2/me/calls"
        seen, extra = each.data["call"], each.ext["calltag"]
        assert isinstance(seen, dict)
        assert isinstance(extra, dict)
        found.append((each.data["phoneNumber"], seen["state"], extra["eventId"]))
    return found


def test_every_live_leg_of_the_user_is_told_in_its_own_view() -> None:
    states = (LegState.DIALING, LegState.RINGING, LegState.RELEASED)
    assert told(ALICE, *states) == [("15000", "Dialing", "e"), ("15010", "Ringing", "e")]
    assert told(BOB, *states) == [("15001", "Released", "e")]
    assert told(UserId("dave"), *states) == []


@pytest.mark.parametrize("live", [0, 1])
def test_a_leg_that_is_gone_is_not_told_beside_a_live_one(live: int) -> None:
    states = [LegState.RELEASED, LegState.RELEASED, LegState.HELD]
    states[live] = LegState.HELD
    assert told(ALICE, *states) == [(("15000", "15010")[live], "Held", "e")]


def test_who_is_not_in_the_directory_any_more_is_told_nothing() -> None:
    centre = directory(tuple(each for each in CENTRE.users.values() if each.id != ALICE))
    leg = Leg("15000", LegState.HELD, DeviceId("d"), ALICE)
    call = Call(CallId("C"), ConnId("c"), CallType.INTERNAL, "15010", 0, (leg,), version=3)
    changed = CallChanged(EventId("e"), NotificationType.STATUS_CHANGE, call, (ALICE,), 0)
    refused = OperationRefused(EventId("e"), ALICE, "Hold", CallId("C"), StatusCode.INVALID_STATE, "text", 0)
    devices = DevicesChanged(EventId("e"), ALICE, (), 1, 0)
    for event in (changed, refused, devices):
        told_of = [EventViews("", each).published(ALICE, event, Position(2), Position(1)) for each in (CENTRE, centre)]
        assert [len(each.events) for each in told_of] == [1, 0]
        assert (told_of[1].position, told_of[1].previous) == (2, 1)


def test_where_no_leg_is_live_the_last_one_is_told() -> None:
    assert told(ALICE, *[LegState.RELEASED] * 3) == [("15010", "Released", "e")]


def channels(user: UserId, **options: tuple[UserId, ...]) -> list[tuple[str, object]]:
    """Channel and number of each message about the call while all legs are live."""
    return [
        (each.channel, each.data["phoneNumber"]) for each in published(user, *[LegState.HELD] * 3, **options).events
    ]


def test_a_supervisor_is_told_of_the_calls_of_own_agents_as_these_see_them() -> None:
    assert channels(CAROL) == [("/v2/users/alice/calls", "15000"), ("/v2/users/alice/calls", "15010")]


def test_a_supervisor_is_told_nothing_of_a_change_that_the_agent_is_not_told_of() -> None:
    assert channels(CAROL, recipients=(BOB,)) == []


def test_an_administrator_is_told_of_every_leg_once_on_each_channel() -> None:
    assert channels(ADMIN) == [
        ("/v2/users/alice/calls", "15000"),
        ("/v2/calls", "15000"),
        ("/v2/users/alice/calls", "15010"),
        ("/v2/calls", "15010"),
        ("/v2/users/bob/calls", "15001"),
        ("/v2/calls", "15001"),
    ]


def test_an_administrator_is_told_of_a_call_between_strangers() -> None:
    assert channels(ADMIN, recipients=()) == [("/v2/calls", "15000")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"accepted_at_ms":1', b'"accepted_at_ms":1' + b"0" * 18),
        (b'"accepted_at_ms":1', b'"accepted_at_ms":1' + b"0" * 400),
        (b'"version":7', b'"version":7' + b"0" * 40),
    ],
)
def test_an_event_that_no_message_can_say_is_passed_over(old: bytes, new: bytes) -> None:
    legs = (Leg("15000", LegState.RINGING, DeviceId("d1"), ALICE),)
    call = Call(CallId("c1"), ConnId("1"), CallType.INTERNAL, "1", 0, legs, version=7)
    event = EVENT.encode(CallChanged(EventId("o1"), NotificationType.STATUS_CHANGE, call, (ALICE,), 1))
    assert old in event
    entry = Entry(Position(2), Position(1), event.replace(old, new))
    assert EventViews("", CENTRE).entry(ALICE, entry) == StreamedEvent(Position(2), Position(1))
    assert len(EventViews("", CENTRE).entry(ALICE, replace(entry, event=event)).events) == 1


@pytest.mark.parametrize("event_id", [EventId("op"), refusal_id(OperationId("op"))])
def test_a_refusal_names_the_operation_of_the_request(event_id: EventId) -> None:
    refused = OperationRefused(event_id, ALICE, "Hold", CallId("C"), StatusCode.INTERNAL, "parked", 0)
    [message] = EventViews("http://u", CENTRE).published(ALICE, refused, Position(2), Position(1)).events
    assert message.data["operationId"] == "op"
    assert message.ext["calltag"]["eventId"] == event_id  # type: ignore[index]
