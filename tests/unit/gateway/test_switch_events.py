"""What the switch is answered about its events."""

import pytest

from calltag.core.contracts.operations import OperationReply
from calltag.core.domain.ids import CallId, OperationId
from calltag.core.domain.operations import CallEnded
from calltag.core.domain.status import StatusCode
from calltag.gateway.errors import EventsRefused
from calltag.gateway.switch_events import SwitchEvent, check_outcomes

OK, GONE, THERE = StatusCode.SUCCESS, StatusCode.NOT_FOUND, StatusCode.ALREADY_EXISTS


def refusal(*codes: StatusCode) -> EventsRefused | None:
    """What the answer is where the events, `e0` and so on, came to these ends."""
    events = [SwitchEvent(f"e{at}", OperationId(f"o{at}"), CallId("C"), CallEnded()) for at in range(len(codes))]
    outcomes = [OperationReply(operation_id=OperationId("o"), code=code, text=code.name.lower()) for code in codes]
    try:
        check_outcomes(events, outcomes)
    except EventsRefused as refused:
        return refused
    return None


def test_success_of_all_is_no_refusal() -> None:
    assert refusal(OK, OK) is None


def test_some_refused_are_named_with_place_id_code_and_text() -> None:
    refused = refusal(OK, GONE, OK, THERE)
    assert refused is not None
    assert (refused.code, refused.http_status) == (StatusCode.PARTIAL_SUCCESS, 207)
    assert refused.message == (
        "2 of 4 events were refused: event 1 (e1): 6, not_found; event 3 (e3): 18, already_exists"
    )
    assert not refused.final


@pytest.mark.parametrize(("codes", "http_status"), [((GONE, THERE), 404), ((THERE, GONE), 409)])
def test_all_refused_have_the_code_of_the_first(codes: tuple[StatusCode, ...], http_status: int) -> None:
    refused = refusal(*codes)
    assert refused is not None
    assert (refused.code, refused.http_status) == (codes[0], http_status)
    assert "event 1 (e1)" in refused.message


def test_one_event_is_refused_as_it_is() -> None:
    refused = refusal(GONE)
    assert refused is not None
    assert (refused.code, refused.message) == (GONE, "not_found")


def test_the_message_is_bounded() -> None:
    refused = refusal(*[GONE] * 1_000)
    assert refused is not None
    assert len(refused.message) < 5_000
    named = refused.message.count("not_found")
    assert named > 100
    assert refused.message.endswith(f"; and {1_000 - named} more")
