"""When the lists of calls are written: where parties changed, and now and then, so that they live on."""

from dataclasses import replace

from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, UserId
from calltag.core.domain.user_data import UserData
from calltag.worker.call_cache import CallIndexCache

LEG = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), UserId("alice"))
CALL = Call(CallId("C1"), ConnId("c1"), CallType.INBOUND, "800", 0, (LEG,), UserData(), 1)


def test_a_call_is_listed_once_for_all_changes_of_its_data() -> None:
    listed = CallIndexCache()
    assert listed.changed([CALL], 0.0) == [CALL]
    listed.note([CALL], 0.0)
    assert listed.changed([replace(CALL, user_data=UserData({"a": (1,)}), version=2)], 0.5) == []


def test_what_was_not_noted_is_still_to_be_listed() -> None:
    listed = CallIndexCache()
    listed.changed([CALL], 0.0)
    assert listed.changed([CALL], 0.1) == [CALL]


def test_a_change_of_parties_is_listed() -> None:
    listed = CallIndexCache()
    listed.note([CALL], 0.0)
    over = replace(CALL, legs=(replace(LEG, state=LegState.RELEASED),))
    assert listed.changed([over], 0.1) == [over]


def test_lists_are_refreshed_now_and_then() -> None:
    listed = CallIndexCache()
    listed.note([CALL], 0.0)
    assert listed.changed([CALL], 2.0) == [CALL]


def test_what_is_remembered_is_bounded() -> None:
    listed = CallIndexCache()
    calls = [replace(CALL, id=CallId(f"C{number}")) for number in range(5_001)]
    listed.note(calls, 0.0)
    assert listed.changed([calls[0], calls[-1]], 0.1) == [calls[0]]
