"""Browsers as CometD clients: sessions of one browser, origins that pages may have, callback-polling."""

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from calltag.core.bayeux import errors
from calltag.core.bayeux.messages import CodecError, Reply
from calltag.core.http.cross_origin import CrossOrigin, note_foreign
from calltag.core.http.origin import AllowedOrigins, Origin, origin_and_host
from calltag.core.identity.http_sessions import CSRF_EXPOSED_HEADERS, USUAL_COOKIES, CookieFlags, values_of
from calltag.core.telemetry import request_ids
from calltag.notifier.session_registry import Suspended

_EXPOSED = ", ".join((*CSRF_EXPOSED_HEADERS, request_ids.HEADER)).encode()
WRONG_NAME: Final = (
    "the callback (jsonp) must be one name of JavaScript, or names with dots between, 64 characters at most"
)
SCRIPT_FIELDS: Final = (
    (b"content-type", b"text/javascript;charset=UTF-8"),
    (b"cache-control", b"no-store"),
    (b"content-disposition", b"attachment; filename=f.txt"),
)
_CALLBACK_PARAMETER: Final = "jsonp"
_USUAL_CALLBACK_NAME: Final = "jsonpcallback"
_MAX_CALLBACK_NAME: Final = 64
_CALLBACK_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(?:\.[A-Za-z_$][A-Za-z0-9_$]*)*")
_ESCAPED: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_TO_ESCAPE: Final = re.compile("|".join(_ESCAPED).encode())
BROWSER_COOKIE: Final = "BAYEUX_BROWSER"
UNLIMITED: Final = -1
_RANDOM_BYTES: Final = 20
_MAX_COOKIE_LENGTH: Final = 128


@dataclass(frozen=True, slots=True)
class Origins:
    """The allowed origins, and the server's own ones: that of the Host header and those in `public`."""

    allowed: AllowedOrigins = field(default_factory=AllowedOrigins)
    public: AllowedOrigins = field(default_factory=AllowedOrigins)

    def pass_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether the request comes from no page, from a page of this server, or from one that is allowed."""
        origin, host = origin_and_host(headers)
        if origin is None or self.allow(origin, host):
            return True
        note_foreign(origin)
        return False

    def pass_(self, connection: HTTPConnection) -> bool:
        """Do the same for a request of an ASGI application."""
        return self.pass_headers(connection.scope["headers"])

    def allow(self, text: str, host: str) -> bool:
        """Return whether the origin is this server's own, or one that is allowed."""
        if self.allowed.any:
            return True
        try:
            origin = Origin.parse(text)
        except ValueError:
            return False
        return origin in self.allowed or origin in self.public or origin.is_served_at(host)

    def cors_fields(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the CORS fields of a response; none if the request's page may not read it."""
        if not self.allowed:
            return []
        origin, _ = origin_and_host(headers)
        if origin is None:
            return []
        exposed = (b"access-control-expose-headers", _EXPOSED)
        if self.allowed.any:
            # With credentials, an unknown page could act with the user's cookies.
            return [(b"access-control-allow-origin", b"*"), exposed]
        vary = (b"vary", b"Origin")
        if not self.allowed.allow(origin):
            return [vary]
        allow = (b"access-control-allow-origin", origin.encode("latin-1"))
        return [allow, (b"access-control-allow-credentials", b"true"), exposed, vary]

    def middleware(self, methods: Sequence[str]) -> Sequence[Middleware]:
        """Return the middleware that answers CORS preflights and lets scripts of allowed origins read the answers."""
        return [Middleware(CrossOrigin, self.allowed, methods=methods, own=self.public)]


class WrongCallback(CodecError):
    """The callback is not a plain function name."""


def callback_of(query: bytes) -> bytes:
    """Return the function that the script calls. Raises WrongCallback."""
    parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    names = [value for name, value in parameters if name == _CALLBACK_PARAMETER] or [_USUAL_CALLBACK_NAME]
    name = names[0] if len(names) == 1 else ""
    if len(name) > _MAX_CALLBACK_NAME or not _CALLBACK_NAME.fullmatch(name):
        raise WrongCallback(WRONG_NAME)
    return name.encode()


def script_bytes(event: bytes) -> int:
    """Return the size of an event in a script."""
    return len(_escaped(event))


def script(name: bytes, replies: bytes) -> bytes:
    """Return the script, in which no content can end the script or be sniffed as another type."""
    return b"/**/%b(%b);" % (name, _escaped(replies))


def _escaped(text: bytes) -> bytes:
    return _TO_ESCAPE.sub(lambda found: _ESCAPED[found[0].decode()].encode(), text)


def page_is_known(headers: Sequence[tuple[bytes, bytes]], origins: Origins) -> bool:
    """Return whether a request comes from a page of this server or of an allowed origin, or certainly from no page.

    Browsers send it in Sec-Fetch-Site or Referer. A request with neither may come from an old browser and a page that
    suppresses Referer: a cookie alone does not authenticate it.
    """
    first = {name: value.decode("latin-1") for name, value in reversed(headers)}
    site, referer = first.get(b"sec-fetch-site"), first.get(b"referer")
    if b"origin" in first:
        return origins.pass_headers(headers)
    if site in ("same-origin", "none"):
        return True
    if referer is not None:
        return origins.allow(_origin(referer), first.get(b"host", ""))
    return site is None and (b"authorization" in first or b"cookie" not in first)


def _origin(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"


def browser_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the value of the first browser cookie, "" if there is none; one too long to be issued here is ignored."""
    cookies = [value.decode("latin-1") for name, value in headers if name == b"cookie"]
    return next((each for each in values_of(BROWSER_COOKIE, cookies) if len(each) <= _MAX_COOKIE_LENGTH), "")


@dataclass(slots=True)
class Browsers:
    """Limits the suspended connects of one browser to `most` (UNLIMITED: no limit); further tabs reconnect after
    `interval_ms` milliseconds, or not at all if that is 0."""

    most: int = 1
    interval_ms: int = 2_000
    flags: CookieFlags = USUAL_COOKIES
    _held: dict[str, dict[str, Suspended]] = field(default_factory=dict)

    @property
    def is_limited(self) -> bool:
        return self.most != UNLIMITED

    def new_cookie(self) -> str:
        """Return the Set-Cookie value for a browser without one, with 160 random bits."""
        return self.flags.set_cookie(BROWSER_COOKIE, secrets.token_urlsafe(_RANDOM_BYTES))

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
            suspended.not_held()
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
        was_advised = resident.advise_tabs(has_others=not is_possible)
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
