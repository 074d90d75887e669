"""Browsers with several tabs: how many connects are held, and what the others are told."""

import pytest
from starlette.requests import Request

from calltag.core.bayeux.position import BEGINNING
from calltag.core.bayeux.session import Session
from calltag.core.identity.cookies import CookieFlags
from calltag.notifier.cometd.browsers import UNLIMITED, Browsers, browser_of

ADVICE = {"reconnect": "retry", "interval": 0, "timeout": 30_000}
REPLY = {"channel": "/meta/connect", "successful": True, "advice": ADVICE}


def session(client_id: str) -> Session:
    return Session(client_id, "alice", 1, 0, BEGINNING, BEGINNING)


def showing(cookie: str) -> Request:
    return Request({"type": "http", "headers": [(b"cookie", cookie.encode())]})


def test_one_connect_of_a_browser_is_held_at_a_time() -> None:
    browsers = Browsers()
    with browsers.holding("b", session("1")) as first, browsers.holding("b", session("2")) as second:
        assert (first, second) == (True, False)
        with browsers.holding("c", session("3")) as other:
            assert other
    with browsers.holding("b", session("2")) as later:
        assert later
    assert browsers._held == {}


def test_as_many_are_held_as_may_be() -> None:
    for most, expected in ((2, [True, True, False]), (0, [False, False, False]), (UNLIMITED, [True, True, True])):
        browsers = Browsers(most)
        with (
            browsers.holding("b", session("1")) as one,
            browsers.holding("b", session("2")) as two,
            browsers.holding("b", session("3")) as three,
        ):
            assert [one, two, three] == expected


def test_without_a_cookie_nothing_is_counted() -> None:
    browsers = Browsers()
    with browsers.holding("", session("1")) as one, browsers.holding("", session("2")) as two:
        assert (one, two, browsers._held) == (True, True, {})


def test_a_newer_connect_of_the_same_session_takes_the_place_of_the_older() -> None:
    browsers = Browsers()
    older = browsers.holding("b", session("1"))
    assert older.__enter__()
    with browsers.holding("b", session("1")) as newer:
        assert newer
        older.__exit__(None, None, None)
        with browsers.holding("b", session("2")) as other:
            assert not other


def test_a_tab_too_many_comes_back_later_and_is_told_when_that_is_over() -> None:
    browsers, tab = Browsers(interval_ms=700), session("1")
    assert browsers.advise(tab, REPLY, is_possible=True) == REPLY
    waits = browsers.advise(tab, REPLY, is_possible=False)
    assert waits == REPLY | {"advice": ADVICE | {"interval": 700, "multiple-clients": True}}
    assert browsers.advise(tab, REPLY, is_possible=True) == REPLY | {"advice": ADVICE | {"multiple-clients": False}}
    assert browsers.advise(tab, REPLY, is_possible=True) == REPLY


def test_a_tab_too_many_may_be_sent_away() -> None:
    reply = Browsers(interval_ms=0).advise(session("1"), REPLY, is_possible=False)
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
    assert browser_of(showing(cookie)) == browser
