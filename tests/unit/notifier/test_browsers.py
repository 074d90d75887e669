"""Browsers with several tabs: how many connects are suspended, and what the others are told."""

from typing import Any, cast

import pytest

from calltag.core.identity.http_sessions import CookieFlags
from calltag.notifier.browsers import UNLIMITED, Browsers, browser_of
from calltag.notifier.session_registry import Resident, Suspended
from parts.bayeux_sessions import session_at

ADVICE = {"reconnect": "retry", "interval": 0, "timeout": 30_000}
REPLY = {"channel": "/meta/connect", "successful": True, "advice": ADVICE}


def suspended(client_id: str) -> Suspended:
    """A connect that waits."""
    return Suspended(Resident(session_at(0, client_id)), cast("Any", None), {}, 0, 0)


def test_one_connect_of_a_browser_is_suspended_at_a_time() -> None:
    browsers, first, second, other = Browsers(), suspended("1"), suspended("2"), suspended("3")
    assert [browsers.hold("b", each) for each in (first, second)] == [True, False]
    assert browsers.hold("c", other)
    for name, each in (("b", first), ("b", second), ("c", other)):
        browsers.release(name, each)
    assert browsers.hold("b", second)
    browsers.release("b", second)
    assert browsers._held == {}


def test_whether_there_is_room_can_be_asked_before() -> None:
    browsers, first = Browsers(), suspended("1")
    assert [browsers.has_room("b", name) for name in ("1", "2")] == [True, True]
    assert browsers.hold("b", first)
    # A newer connect of the same session would take the place of the older one.
    assert [browsers.has_room("b", name) for name in ("1", "2")] == [True, False]
    assert [browsers.has_room(name, "2") for name in ("c", "")] == [True, True]
    browsers.release("b", first)
    assert browsers.has_room("b", "2")


def test_as_many_are_suspended_as_may_be() -> None:
    for most, expected in ((2, [True, True, False]), (0, [False, False, False]), (UNLIMITED, [True, True, True])):
        browsers = Browsers(most)
        for name, is_suspended in zip(("1", "2", "3"), expected, strict=True):
            assert browsers.has_room("b", name) is is_suspended
            assert browsers.hold("b", suspended(name)) is is_suspended
        assert len(browsers._held) == (1 if most == 2 else 0)


def test_without_a_cookie_nothing_is_counted() -> None:
    browsers = Browsers()
    assert [browsers.hold("", suspended(name)) for name in ("1", "2")] == [True, True]
    assert browsers._held == {}


def test_a_newer_connect_of_the_same_session_takes_the_place_of_the_older() -> None:
    browsers, older, newer = Browsers(), suspended("1"), suspended("1")
    assert browsers.hold("b", older)
    assert browsers.hold("b", newer)
    browsers.release("b", older)
    assert not browsers.hold("b", suspended("2"))


def test_a_tab_too_many_comes_back_later_and_is_told_when_that_is_over() -> None:
    browsers, tab = Browsers(interval_ms=700), suspended("1")
    assert browsers.advise(tab, REPLY) == REPLY
    tab.was_held = False
    waits = browsers.advise(tab, REPLY)
    assert waits == REPLY | {"advice": ADVICE | {"interval": 700, "multiple-clients": True}}
    tab.was_held = True
    assert browsers.advise(tab, REPLY) == REPLY | {"advice": ADVICE | {"multiple-clients": False}}
    assert browsers.advise(tab, REPLY) == REPLY


def test_a_tab_too_many_may_be_sent_away() -> None:
    browsers, tab = Browsers(interval_ms=0), suspended("2")
    assert [browsers.hold("b", each) for each in (suspended("1"), tab)] == [True, False]
    reply = browsers.advise(tab, REPLY)
    assert (reply["successful"], reply["error"]) == (False, "429:1:too_many_sessions_of_browser")
    assert reply["advice"] == ADVICE | {"reconnect": "none", "multiple-clients": True}


def test_a_new_cookie_is_never_the_same_and_for_no_script() -> None:
    browsers = Browsers(flags=CookieFlags(secure=True, same_site="none"))
    one, two = browsers.new_cookie(), browsers.new_cookie()
    assert one != two
    name, _, rest = one.partition("=")
    value, _, flags = rest.partition("; ")
    assert (name, flags) == ("BAYEUX_BROWSER", "Path=/; HttpOnly; SameSite=None; Secure")
    assert len(value) * 6 >= 128


@pytest.mark.parametrize(
    ("cookie", "browser"),
    [("BAYEUX_BROWSER=abc", "abc"), ("other=1", ""), ("BAYEUX_BROWSER=", ""), (f"BAYEUX_BROWSER={'x' * 129}", "")],
)
def test_what_a_browser_shows(cookie: str, browser: str) -> None:
    assert browser_of([(b"cookie", cookie.encode())]) == browser
