"""Protection against forged requests."""

import pytest

from calltag.core.domain.ids import UserId
from calltag.core.identity.http_sessions import (
    CSRF_EXPOSED_HEADERS,
    CSRF_MESSAGE,
    HttpSession,
    csrf_headers,
    csrf_passes,
    csrf_token,
)

SESSION = HttpSession("token", UserId("alice"), "credential")
TOKEN = csrf_token(SESSION)


def test_the_answer_to_a_get_names_header_and_token() -> None:
    assert csrf_headers(SESSION) == {"X-CSRF-HEADER": "X-CSRF-TOKEN", "X-CSRF-TOKEN": TOKEN}
    assert set(csrf_headers(SESSION)) == set(CSRF_EXPOSED_HEADERS)
    assert CSRF_MESSAGE == "Missing or invalid Csrf token"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "get"])
@pytest.mark.parametrize("by_cookie", [True, False])
def test_reading_needs_no_token(method: str, by_cookie: bool) -> None:
    assert csrf_passes(method, SESSION, [], by_cookie=by_cookie)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "post"])
@pytest.mark.parametrize(
    ("by_cookie", "tokens", "passes"),
    [
        (True, [TOKEN], True),
        (True, [TOKEN.swapcase()], False),
        (True, [""], False),
        (True, ["é\ud800"], False),
        (True, [], False),
        (True, [TOKEN, TOKEN], False),
        (True, [TOKEN, "other"], False),
        (False, [TOKEN], False),
        (False, [], False),
    ],
)
def test_a_change_needs_cookie_and_one_token(method: str, by_cookie: bool, tokens: list[str], passes: bool) -> None:
    assert csrf_passes(method, SESSION, tokens, by_cookie=by_cookie) is passes


def test_the_token_is_derived_from_that_of_the_cookie_and_does_not_tell_it() -> None:
    other = HttpSession("other", SESSION.user, SESSION.credential)
    assert csrf_token(other) != TOKEN
    assert csrf_token(HttpSession("token", UserId("bob"), "new")) == TOKEN
    assert (len(TOKEN), "token" in TOKEN) == (43, False)
