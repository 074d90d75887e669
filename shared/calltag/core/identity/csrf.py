"""Protection against cross-site request forgery.

Source: Web Services API: a GET answers with `X-CSRF-HEADER` (the header to send back) and `X-CSRF-TOKEN` (the token,
which lives as long as the session); every PUT, POST and DELETE must carry it with the session cookie. That holds for
requests with a password too: a browser that was given one sends it along with forged requests, like a cookie.
"""

import hmac
from typing import Final

from calltag.core.identity.http_sessions import HttpSession

HEADER: Final = "X-CSRF-TOKEN"
HEADER_NAME_HEADER: Final = "X-CSRF-HEADER"
EXPOSED_HEADERS: Final = (HEADER_NAME_HEADER, HEADER)
"""What `Access-Control-Expose-Headers` must name, for scripts of other origins to read the token."""
MESSAGE: Final = "Missing or invalid Csrf token"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def csrf_headers(session: HttpSession) -> dict[str, str]:
    """What the answer to a GET tells."""
    return {HEADER_NAME_HEADER: HEADER, HEADER: session.csrf_token}


def csrf_passes(method: str, session: HttpSession, token: str | None, *, by_cookie: bool) -> bool:
    """Whether a request with this X-CSRF-TOKEN may go on; `by_cookie` says whether it showed the session's cookie."""
    if method.upper() in _SAFE:
        return True
    if token is None or not by_cookie:
        return False
    return hmac.compare_digest(token.encode(errors="replace"), session.csrf_token.encode())
