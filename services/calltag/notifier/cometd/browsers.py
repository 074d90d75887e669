"""Browsers with several tabs: each tab holds a connection, of which a browser opens only a few to one host.

Source: CometD's server (`maxSessionsPerBrowser`, `multiSessionInterval`). The cookie counts connects that one notifier
holds, and does nothing else: who shows none, or another one, has the same sessions as ever.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import HTTPConnection

from calltag.core.bayeux import errors
from calltag.core.bayeux.codec import Reply
from calltag.core.bayeux.session import Session
from calltag.core.identity.cookies import USUAL, CookieFlags, values_of

COOKIE: Final = "BAYEUX_BROWSER"
UNLIMITED: Final = -1
_RANDOM_BYTES: Final = 20
_MAX_LENGTH: Final = 128


def browser_of(connection: HTTPConnection) -> str:
    """What the browser shows; "" for nothing that was ever given out. Of several cookies the first one counts."""
    shown = values_of(COOKIE, connection.headers.getlist("cookie"))
    return next((each for each in shown if len(each) <= _MAX_LENGTH), "")


@dataclass(slots=True)
class Browsers:
    """At most `most` connects of one browser are held (UNLIMITED for any number); tabs beyond come back after
    `interval_ms` milliseconds, or not at all if that is 0."""

    most: int = 1
    interval_ms: int = 2_000
    flags: CookieFlags = USUAL
    _held: dict[str, dict[str, object]] = field(default_factory=dict)

    def new_cookie(self) -> str:
        """The Set-Cookie value for a browser that has none, with 160 random bits."""
        return self.flags.set_cookie(COOKIE, secrets.token_urlsafe(_RANDOM_BYTES))

    @contextmanager
    def holding(self, browser: str, session: Session) -> Iterator[bool]:
        """Inside, a connect of the session is held, if that is said to be possible.

        A newer connect of the same session takes the place of the older one.
        """
        if not browser or self.most == UNLIMITED:
            yield True
            return
        held = self._held.setdefault(browser, {})
        is_possible = len(held.keys() - {session.client_id}) < self.most
        mine = object()
        if is_possible:
            held[session.client_id] = mine
        try:
            yield is_possible
        finally:
            if held.get(session.client_id) is mine:
                del held[session.client_id]
            if not held and self._held.get(browser) is held:
                del self._held[browser]

    def advise(self, session: Session, reply: Reply, *, is_possible: bool) -> Reply:
        """The reply to a connect, with what the client is to know of the browser's other tabs."""
        told, session.multiple_clients = session.multiple_clients, not is_possible
        given = reply.get("advice")
        advice = given if isinstance(given, dict) else {}
        if is_possible:
            return reply | {"advice": advice | {"multiple-clients": False}} if told else reply
        if self.interval_ms > 0:
            return reply | {"advice": advice | {"interval": self.interval_ms, "multiple-clients": True}}
        return reply | {
            "successful": False,
            "error": errors.too_many_tabs(self.most),
            "advice": advice | {"reconnect": "none", "multiple-clients": True},
        }
