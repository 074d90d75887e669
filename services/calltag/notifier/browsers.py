"""Browsers with several tabs: each tab holds a connection, and a browser opens only a few to one host.

Source: CometD's server (`maxSessionsPerBrowser`, `multiSessionInterval`). The cookie only counts suspended connects: it
gives no access to sessions, and a client may omit or change it.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bayeux import errors
from calltag.core.bayeux.messages import Reply
from calltag.core.identity.cookies import USUAL, CookieFlags, values_of
from calltag.notifier.session_registry import Suspended

COOKIE: Final = "BAYEUX_BROWSER"
UNLIMITED: Final = -1
_RANDOM_BYTES: Final = 20
_MAX_LENGTH: Final = 128


def browser_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the value of the first browser cookie, "" if there is none; one too long to be issued here is ignored."""
    cookies = [value.decode("latin-1") for name, value in headers if name == b"cookie"]
    return next((each for each in values_of(COOKIE, cookies) if len(each) <= _MAX_LENGTH), "")


@dataclass(slots=True)
class Browsers:
    """Limits the suspended connects of one browser to `most` (UNLIMITED: no limit); further tabs reconnect after
    `interval_ms` milliseconds, or not at all if that is 0."""

    most: int = 1
    interval_ms: int = 2_000
    flags: CookieFlags = USUAL
    _held: dict[str, dict[str, Suspended]] = field(default_factory=dict)

    @property
    def is_limited(self) -> bool:
        return self.most != UNLIMITED

    def new_cookie(self) -> str:
        """Return the Set-Cookie value for a browser without one, with 160 random bits."""
        return self.flags.set_cookie(COOKIE, secrets.token_urlsafe(_RANDOM_BYTES))

    def has_room(self, browser: str, client_id: str) -> bool:
        """Return whether one more connect of the browser may be suspended."""
        if not browser or not self.is_limited:
            return True
        held = self._held.get(browser)
        return (0 if held is None else len(held.keys() - {client_id})) < self.most

    def hold(self, browser: str, suspended: Suspended) -> bool:
        """Return whether one more connect of the browser may be suspended; if so, it counts until `release`.

        A newer connect of the same session replaces the older one.
        """
        if not browser or not self.is_limited:
            return True
        client_id = suspended.resident.client_id
        if not self.has_room(browser, client_id):
            suspended.was_held = False
            return False
        self._held.setdefault(browser, {})[client_id] = suspended
        return True

    def release(self, browser: str, suspended: Suspended) -> None:
        """Count the connect as answered."""
        held = self._held.get(browser)
        if held is not None and held.get(suspended.resident.client_id) is suspended:
            del held[suspended.resident.client_id]
            if not held:
                del self._held[browser]

    def advise(self, suspended: Suspended, reply: Reply) -> Reply:
        """Add advice about the browser's other tabs to the reply to a connect."""
        resident = suspended.resident
        is_possible = suspended.was_held
        was_advised, resident.has_other_tabs = resident.has_other_tabs, not is_possible
        given = reply.get("advice")
        advice = given if isinstance(given, dict) else {}
        if is_possible:
            return reply | {"advice": advice | {"multiple-clients": False}} if was_advised else reply
        if self.interval_ms > 0:
            return reply | {"advice": advice | {"interval": self.interval_ms, "multiple-clients": True}}
        return reply | {
            "successful": False,
            "error": errors.too_many_tabs(self.most),
            "advice": advice | {"reconnect": "none", "multiple-clients": True},
        }
