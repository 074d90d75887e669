"""Protection against cross-site request forgery.

Source: Web Services API: a GET answers with `X-CSRF-HEADER` (the header to send back) and `X-CSRF-TOKEN` (the token,
which lives as long as the session); every PUT, POST and DELETE must carry it with the session cookie. That holds for
requests with a password too: a browser that was given one sends it along with forged requests, like a cookie.
"""

import base64
import hmac
from collections.abc import Sequence
from typing import Final

from calltag.core.identity.http_sessions import HttpSession

HEADER: Final = "X-CSRF-TOKEN"
HEADER_NAME_HEADER: Final = "X-CSRF-HEADER"
EXPOSED_HEADERS: Final = (HEADER_NAME_HEADER, HEADER)
"""What `Access-Control-Expose-Headers` must name, for scripts of other origins to read the token."""
MESSAGE: Final = "Missing or invalid Csrf token"
_LABEL: Final = b"calltag X-CSRF-TOKEN"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def csrf_headers(session: HttpSession) -> dict[str, str]:
    """What the answer to a GET tells."""
    return {HEADER_NAME_HEADER: HEADER, HEADER: csrf_token(session)}


def csrf_token(session: HttpSession) -> str:
    """Derive the session's token from that of its cookie, so that the store need not keep it."""
    return base64.urlsafe_b64encode(hmac.digest(session.token.encode(), _LABEL, "sha256")).decode().rstrip("=")


def csrf_passes(method: str, session: HttpSession, tokens: Sequence[str], *, by_cookie: bool) -> bool:
    """Whether a request with these values of X-CSRF-TOKEN (one, as a rule) may go on.

    `by_cookie` says whether it showed the session's cookie.
    """
    if method.upper() in _SAFE:
        return True
    if len(tokens) != 1 or not by_cookie:
        return False
    return hmac.compare_digest(tokens[0].encode(errors="replace"), csrf_token(session).encode())
