"""Origins of pages (RFC 6454), compared as scheme, host and port rather than as text.

Browsers, proxies and people write one origin in several ways: with the scheme's own port or without, a host in capital
letters, with a dot at its end or in another alphabet.
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
    """Where a page comes from; equal for all ways to write it."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Read `scheme://host` or `scheme://host:port` with the scheme http or https. Raises ValueError."""
        try:
            parts = urlsplit(text)
            host, port = _host(parts.hostname or "", is_ipv6=parts.netloc.startswith("[")), parts.port
        except ValueError:
            raise ValueError(_FORM) from None
        if parts.scheme not in _PORTS or parts.username is not None or parts.path or parts.query or parts.fragment:
            raise ValueError(_FORM)
        return cls(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)

    def is_served_at(self, host: str) -> bool:
        """Whether the value of a Host header means this origin's host and port.

        The scheme is not in Host, and behind a proxy that ends TLS it is not known otherwise.
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
    """The origins that are allowed, or all of them (`*`). Raises ValueError."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        given = tuple(texts)
        self.any = ANY in given
        self._origins: Collection[Origin] = frozenset(Origin.parse(each) for each in given if each != ANY)

    def __bool__(self) -> bool:
        return self.any or bool(self._origins)

    def __contains__(self, origin: object) -> bool:
        return self.any or origin in self._origins

    def allow(self, text: str) -> bool:
        """Whether the value of an Origin header is allowed."""
        if self.any:
            return True
        try:
            return Origin.parse(text) in self._origins
        except ValueError:
            return False
