"""Protection against cross-site request forgery.

Source: Web Services API: a GET answers with `X-CSRF-HEADER` (the header to send back) and `X-CSRF-TOKEN` (the token,
which lives as long as the session); every PUT, POST and DELETE made with the session cookie must carry it.
"""

import hmac
from typing import Final

from calltag.core.identity.http_sessions import HttpSession

HEADER: Final = "X-CSRF-TOKEN"
HEADER_NAME_HEADER: Final = "X-CSRF-HEADER"
MESSAGE: Final = "Missing or invalid Csrf token"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def csrf_headers(session: HttpSession) -> dict[str, str]:
    """What the answer to a GET tells."""
    return {HEADER_NAME_HEADER: HEADER, HEADER: session.csrf_token}


def csrf_passes(method: str, session: HttpSession, token: str | None, *, by_cookie: bool) -> bool:
    """Whether a request may change something; one that shows a password instead of a cookie cannot be forged."""
    if method.upper() in _SAFE or not by_cookie:
        return True
    return token is not None and hmac.compare_digest(token.encode(), session.csrf_token.encode())
