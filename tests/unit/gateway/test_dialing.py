"""From a destination to the legs of a call."""

import pytest

from calltag.core.domain.call import CallType
from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import demo_directory
from calltag.gateway.errors import OutOfRange
from calltag.gateway.operations import dial
from calltag.gateway.requests import UserDataLimits

DIRECTORY = demo_directory()
DEVICE = DIRECTORY.users[UserId("alice")].devices[0]


def dialed(number: str) -> tuple[CallType, str, UserId | None]:
    action = dial({"destination": {"phoneNumber": number}}, DEVICE, DIRECTORY, UserDataLimits())
    return action.type, action.dnis, action.legs[1].user


@pytest.mark.parametrize("number", ["15001", " 15001", "15001  "])
def test_blanks_around_a_number_do_not_count(number: str) -> None:
    assert dialed(number) == (CallType.INTERNAL, "15001", "bob")


def test_a_number_of_nobody_is_outside() -> None:
    assert dialed("+1 (555) 12.12-0") == (CallType.OUTBOUND, "+1 (555) 12.12-0", None)


@pytest.mark.parametrize(
    ("number", "word"), [("15000 ", "dialing device itself"), ("  ", "phone number"), ("é", "phone number")]
)
def test_what_cannot_be_dialed_is_refused(number: str, word: str) -> None:
    with pytest.raises(OutOfRange, match=word):
        dialed(number)
