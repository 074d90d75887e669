"""How much is kept at hand of what was committed."""

from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import CallChanged, NotificationType
from calltag.core.domain.ids import CallId, ConnId, DeviceId, EventId, OperationId, UserId
from calltag.core.store.ports import Change, Loaded
from calltag.worker.batch import Folded
from calltag.worker.call_cache import CallCache

NEW = [OperationId("f" * 32)]


def key(number: int) -> str:
    return f"call:{number}"


def call(number: int) -> Call:
    leg = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), UserId("alice"))
    return Call(CallId(str(number)), ConnId("c"), CallType.INBOUND, "", 0, (leg,))


def note(known: CallCache, number: int, size: int, *, told: bool = True) -> None:
    """A call was committed; the event that tells of it has that size."""
    after = call(number)
    event = CallChanged(EventId("e"), NotificationType.ATTACHED_DATA_CHANGED, after, (), 0)
    folded = Folded(changes=[Change(key(number), None, after, ())])
    if told:
        folded.add_event(event, b"x" * size)
    known.note({key(number): Loaded(None)}, folded)


def at_hand(known: CallCache, *numbers: int) -> list[int]:
    return [number for number in numbers if known.loaded({key(number): NEW})]


def test_nothing_is_known_before_a_commit_told_of_the_marks() -> None:
    known = CallCache(100)
    note(known, 1, 10)
    assert at_hand(known, 1) == []
    known.blocked(0)
    assert known.loaded({key(1): NEW, key(2): NEW}) == {key(1): Loaded(call(1))}
    known.blocked(1)
    assert at_hand(known, 1) == []


def test_those_used_last_stay_within_the_limit() -> None:
    known = CallCache(100)
    known.blocked(0)
    for number in range(4):
        note(known, number, 30)
    assert at_hand(known, 0, 1, 2, 3) == [1, 2, 3]
    assert at_hand(known, 1) == [1]
    note(known, 4, 30)
    assert at_hand(known, 1, 2, 3, 4) == [1, 3, 4]


def test_a_call_that_grows_takes_more_and_one_too_large_is_not_kept() -> None:
    known = CallCache(100)
    known.blocked(0)
    note(known, 1, 40)
    note(known, 2, 40)
    note(known, 1, 80)
    assert at_hand(known, 1, 2) == [1]
    note(known, 1, 101)
    assert at_hand(known, 1) == []
    note(known, 2, 100)
    assert at_hand(known, 2) == [2]


def test_one_of_unknown_size_is_not_kept_and_one_of_known_size_stays() -> None:
    known = CallCache(100)
    known.blocked(0)
    note(known, 1, 0, told=False)
    assert at_hand(known, 1) == []
    note(known, 1, 50)
    note(known, 1, 0, told=False)
    assert at_hand(known, 1) == [1]


def test_with_no_room_or_after_others_were_at_work_nothing_is_known() -> None:
    none = CallCache(0)
    none.blocked(0)
    note(none, 1, 1)
    assert at_hand(none, 1) == []
    known = CallCache(100)
    known.blocked(0)
    note(known, 1, 1)
    known.forget()
    known.blocked(0)
    assert at_hand(known, 1) == []
