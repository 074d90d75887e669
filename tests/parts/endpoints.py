"""The HTTP endpoints of a system, each with a request whose body the application reads."""

import ssl
from dataclasses import dataclass

import httpx

from parts.raw_http import Address
from parts.system import System

BODY_BYTES = 96
OPERATION = b'{"operationName":"AttachUserData","userData":{"a":1}}'.ljust(BODY_BYTES)
MESSAGES = b'[{"channel":"/meta/unsubscribe","clientId":"none","subscription":"/none"}]'.ljust(BODY_BYTES)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One HTTP server, and a request whose body it reads; `status` is the answer if the body arrives whole."""

    address: Address
    path: str
    body: bytes
    status: int
    login: str = "Accept: */*"

    def filled(self, raw: bytes) -> bytes:
        """Return a row of the table with the marks replaced for this server."""
        half = BODY_BYTES // 2
        for mark, text in (
            (b"<read>", self.path.encode()),
            (b"<login>", f"Content-Type: application/json\r\n{self.login}".encode()),
            (b"<body>", self.body),
            (b"<first half>", self.body[:half]),
            (b"<second half>", self.body[half:]),
        ):
            raw = raw.replace(mark, text)
        return raw


def gateway_endpoint(system: System) -> Endpoint:
    """The API, with alice signed in."""
    signed_in = httpx.get(f"{system.gateway_url}/api/v2/me", auth=("alice", "demo"), verify=False)
    cookie = f"Cookie: JSESSIONID={signed_in.cookies['JSESSIONID']}"
    port = int(system.gateway_url.rpartition(":")[2])
    return Endpoint(Address(port), "/api/v2/me/calls/none", OPERATION, 404, cookie)


def notifier_endpoint(system: System, tls: ssl.SSLContext | None = None) -> Endpoint:
    """CometD, without a login."""
    port = int(system.cometd_url.rpartition(":")[2])
    return Endpoint(Address(port, tls=tls), "/genesys/cometd", MESSAGES, 200)
