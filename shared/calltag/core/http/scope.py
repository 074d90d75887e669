"""ASGI scopes of requests (ASGI HTTP and WebSocket 2.3)."""

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from starlette.types import Scope

from calltag.core.http.request_parser import RequestHead

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


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
