"""Protection against cross-site request forgery.

Source: Web Services API: a GET returns `X-CSRF-HEADER` (the header to send back) and `X-CSRF-TOKEN` (the token, valid
for the lifetime of the session); every PUT, POST and DELETE must carry it with the session cookie. That holds for
requests with a password too: browsers send a stored one with forged requests, like a cookie.
"""

import base64
import hmac
from collections.abc import Sequence
from typing import Final

from calltag.core.identity.http_sessions import HttpSession

HEADER: Final = "X-CSRF-TOKEN"
HEADER_NAME_HEADER: Final = "X-CSRF-HEADER"
EXPOSED_HEADERS: Final = (HEADER_NAME_HEADER, HEADER)
"""Value of `Access-Control-Expose-Headers`, which lets scripts of other origins read the token."""
MESSAGE: Final = "Missing or invalid Csrf token"
_LABEL: Final = b"calltag X-CSRF-TOKEN"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def csrf_headers(session: HttpSession) -> dict[str, str]:
    """Return the headers of the response to a GET."""
    return {HEADER_NAME_HEADER: HEADER, HEADER: csrf_token(session)}


def csrf_token(session: HttpSession) -> str:
    """Derive the token from that of the session's cookie, so that Redis need not store it."""
    return base64.urlsafe_b64encode(hmac.digest(session.token.encode(), _LABEL, "sha256")).decode().rstrip("=")


def csrf_passes(method: str, session: HttpSession, tokens: Sequence[str], *, by_cookie: bool) -> bool:
    """Return whether a request with these values of X-CSRF-TOKEN (usually one) passes.

    `by_cookie` is True if it had the session's cookie.
    """
    if method.upper() in _SAFE:
        return True
    if len(tokens) != 1 or not by_cookie:
        return False
    return hmac.compare_digest(tokens[0].encode(errors="replace"), csrf_token(session).encode())
