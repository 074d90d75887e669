"""Origins of pages (RFC 6454), compared as scheme, host and port rather than as text.

One origin has several spellings: with or without the default port, with a host in capital letters, with a final dot, or
internationalized.
"""

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

ANY: Final = "*"
_FORM: Final = "must be scheme, host and port, as in https://desk.example.com"
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a page, normalized: equal for all its spellings."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Parse `scheme://host` or `scheme://host:port` with the scheme http or https. Raises ValueError."""
        try:
            parts = urlsplit(text)
            host, port = _host(parts.hostname or "", is_ipv6=parts.netloc.startswith("[")), parts.port
        except ValueError:
            raise ValueError(_FORM) from None
        if parts.scheme not in _PORTS or parts.username is not None or parts.path or parts.query or parts.fragment:
            raise ValueError(_FORM)
        return cls(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)

    def is_served_at(self, host: str) -> bool:
        """Return whether a Host header has this origin's host and port.

        Host has no scheme, and behind a proxy that terminates TLS the scheme is unknown.
        """
        try:
            return Origin.parse(f"{self.scheme}://{host}") == self
        except ValueError:
            return False


def _host(name: str, *, is_ipv6: bool) -> str:
    if is_ipv6:
        return str(ipaddress.IPv6Address(name))
    host = name.lower().removesuffix(".")
    if not host:
        raise ValueError(_FORM)
    return host if host.isascii() else host.encode("idna").decode()


class AllowedOrigins:
    """Set of allowed origins; `*` allows all. Raises ValueError."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        given = tuple(texts)
        self.any = ANY in given
        self._origins: Collection[Origin] = frozenset(Origin.parse(each) for each in given if each != ANY)

    def __bool__(self) -> bool:
        return self.any or bool(self._origins)

    def __contains__(self, origin: object) -> bool:
        return self.any or origin in self._origins

    def allow(self, text: str) -> bool:
        """Return whether the value of an Origin header is allowed."""
        if self.any:
            return True
        try:
            return Origin.parse(text) in self._origins
        except ValueError:
            return False


def origin_and_host(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, str]:
    """Return the Origin header of a request, None if there is none, and the Host header."""
    origin, host = None, ""
    for name, value in headers:
        if name == b"origin":
            origin = value.decode("latin-1")
        elif name == b"host":
            host = value.decode("latin-1")
    return origin, host
