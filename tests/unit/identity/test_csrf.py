"""Protection against forged requests."""

import pytest

from calltag.core.domain.ids import UserId
from calltag.core.identity.csrf import EXPOSED_HEADERS, MESSAGE, csrf_headers, csrf_passes
from calltag.core.identity.http_sessions import HttpSession

SESSION = HttpSession("token", UserId("alice"), "csrf", "credential")


def test_the_answer_to_a_get_names_header_and_token() -> None:
    assert csrf_headers(SESSION) == {"X-CSRF-HEADER": "X-CSRF-TOKEN", "X-CSRF-TOKEN": "csrf"}
    assert set(csrf_headers(SESSION)) == set(EXPOSED_HEADERS)
    assert MESSAGE == "Missing or invalid Csrf token"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "get"])
@pytest.mark.parametrize("by_cookie", [True, False])
def test_reading_needs_no_token(method: str, by_cookie: bool) -> None:
    assert csrf_passes(method, SESSION, None, by_cookie=by_cookie)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "post"])
@pytest.mark.parametrize(
    ("by_cookie", "token", "passes"),
    [
        (True, "csrf", True),
        (True, "CSRF", False),
        (True, "", False),
        (True, "é\ud800", False),
        (True, None, False),
        (False, "csrf", False),
        (False, None, False),
    ],
)
def test_a_change_needs_cookie_and_token(method: str, by_cookie: bool, token: str | None, passes: bool) -> None:
    assert csrf_passes(method, SESSION, token, by_cookie=by_cookie) is passes
