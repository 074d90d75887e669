"""The ASGI scope of a request: its target, its client behind proxies, its route."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import Scope

from calltag.core.http.request_parser import RequestHead

ANY_PEER: Final = "*"
COMETD_PATHS: Final = ("/genesys/cometd", "/api/v2/notifications")
"""Addresses of CometD, which serve all below them too: clients append the type of their message."""
USER: Final = "calltag.user"
"""Key of the scope: name of the user whom a trusted proxy has authenticated, or ""."""
_REMEMBERED_PEERS: Final = 4_096
_WITH_PORT: Final = re.compile(r"\[(?P<v6>[0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|(?P<v4>[0-9.]+):[0-9]{1,5}")
_PLAIN: Final = re.compile(r"[0-9A-Fa-f:.]{1,45}")
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


def routed(routes: Sequence[BaseRoute]) -> Starlette:
    """Return an application that does not redirect: behind a proxy, a redirect would lead to an internal address."""
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return app


def is_under(path: str, roots: Sequence[str]) -> bool:
    """Return whether a path is one of the roots, or below one."""
    return any(path == each or path.startswith(f"{each}/") for each in roots)


class TrustedProxies:
    """Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted.

    `networks` are addresses, networks, or `*` for every peer. Raises ValueError for anything else.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        given = tuple(networks)
        self._trusts_all = ANY_PEER in given
        self._networks = tuple(ipaddress.ip_network(each) for each in given if each != ANY_PEER)
        self._judged = lru_cache(_REMEMBERED_PEERS)(self._judge)

    def trusts(self, peer: str) -> bool:
        """Return whether the peer of a connection is a trusted proxy."""
        return self._trusts_all or self._judged(peer)

    def client_address(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Return the client's address, given the values of all X-Forwarded-For headers in order.

        It is the last entry that is no trusted proxy; the first entry if all are trusted; with `*`, the last entry. It
        is the peer if that is not trusted, or if an entry from the end up to there is no IP address.
        """
        if not forwarded_for or not self.trusts(peer):
            return peer
        address = None
        for entry in _from_the_end(forwarded_for):
            address = _address(entry)
            if address is None:
                return peer
            if self._trusts_all or not self._judged(address):
                break
        return peer if address is None else address

    def scheme(self, forwarded_proto: Sequence[str], default: str) -> str:
        """Return `http` or `https` by the last entry of X-Forwarded-Proto, which the nearest proxy set; else `default`.

        Call it only if the peer is trusted.
        """
        last = next(_from_the_end(forwarded_proto), "")
        return _SCHEMES.get(last.lower(), default)

    def _judge(self, peer: str) -> bool:
        address = _parsed(peer.partition("%")[0])
        return address is not None and any(address in network for network in self._networks)


class ProxyLogin:
    """Users whom a proxy has authenticated, such as one that speaks SAML: it names them in a header.

    Requests of other peers are served as if they had no such header.
    """

    def __init__(self, header: str, networks: Iterable[str]) -> None:
        self._header = header.lower().encode()
        self._proxies = TrustedProxies(networks)

    def user_of(self, headers: Iterable[tuple[bytes, bytes]], peer: str) -> str:
        """Return the user; "" if the proxy names none, or the peer is no trusted proxy."""
        if not self._proxies.trusts(peer):
            return ""
        # Several names are no name of a user.
        return ", ".join(value.decode(errors="replace") for name, value in headers if name == self._header)


def _from_the_end(values: Sequence[str]) -> Iterator[str]:
    """Yield the non-empty entries of list headers, last one first."""
    for value in reversed(values):
        for entry in reversed(value.split(",")):
            if entry := entry.strip():
                yield entry


@lru_cache(_REMEMBERED_PEERS)
def _address(entry: str) -> str | None:
    """Return the address in an entry in canonical form; None if there is none."""
    if with_port := _WITH_PORT.fullmatch(entry):
        entry = with_port["v6"] or with_port["v4"]
    address = _parsed(entry)
    return None if address is None else str(address)


def _parsed(text: str) -> _Address | None:
    """Return the address; an IPv4-mapped IPv6 address is returned as IPv4."""
    if not _PLAIN.fullmatch(text):
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


if TYPE_CHECKING:
    from calltag.core.http.connection import Connection


def scope_of(kind: str, head: RequestHead, connection: "Connection") -> Scope:
    """Return the scope, without the keys that only WebSockets have."""
    path = head.path.decode("ascii")
    client, scheme = client_of(head, connection)
    return {
        "type": kind,
        "asgi": _ASGI,
        "http_version": head.version,
        "server": connection.local,
        "client": client,
        "scheme": scheme,
        "method": head.method,
        "root_path": "",
        "path": unquote(path) if "%" in path else path,
        "raw_path": head.path,
        "query_string": head.query,
        "headers": list(head.headers),
        USER: head.user,
    }


def client_of(head: RequestHead, connection: "Connection") -> tuple[tuple[str, int], str]:
    """Return address and scheme of the client, from the headers of a trusted proxy if there is one."""
    peer, proxies = connection.peer, connection.server.proxies
    if not proxies.trusts(peer[0]):
        return peer, connection.scheme
    addresses = [value.decode("latin-1") for name, value in head.headers if name == b"x-forwarded-for"]
    schemes = [value.decode("latin-1") for name, value in head.headers if name == b"x-forwarded-proto"]
    address = proxies.client_address(peer[0], addresses)
    return (peer if address == peer[0] else (address, 0)), proxies.scheme(schemes, connection.scheme)
