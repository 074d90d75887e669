"""A private HAProxy in front of gateways and notifiers: round robin, no stickiness, as an operator would set it up."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parts.ports import free_port
from parts.processes import Program, program

_CONFIGURATION = """
global
    maxconn 8000
    hard-stop-after 2s
    log stdout format raw local0 info

defaults
    mode http
    log global
    option httplog
    # Only what went wrong; a whole run's requests would fill the disk.
    option dontlog-normal
    timeout connect 2s
    # A busy machine is no reason to take a server out; a refused connection, or a 503, is.
    timeout check 5s
    # Longer than a connect is held.
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
    # A client's next request must not meet a connection that is just being closed.
    timeout http-keep-alive 10m
    # The same on the other side: with one connection for each request, none is sent on one that a notifier that ends,
    # or has kept it long enough, closes at that moment. It could not be sent again: nobody knows whether it was taken.
    option http-server-close
    http-reuse never
    # What was refused a connection goes to another server; what was sent is not repeated.
    option redispatch 1
    retries 5
    retry-on conn-failure
    # Who has gone away is told to the notifier, which then keeps what waits.
    option abortonclose
    option httpchk GET /readyz
    # A server that ends is out before it closes its port (CALLTAG_DRAIN_DELAY_S), on a busy machine too. One that was
    # killed refuses connections, and is passed over at once.
    default-server check inter 200ms downinter 100ms fall 2 rise 1
    balance roundrobin

frontend front
    bind 127.0.0.1:{port}
{routes}
    default_backend gateways

backend gateways
{gateways}

backend notifiers
    balance {balance}
{notifiers}
"""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One process: the port for clients, and the internal one that tells whether it is ready."""

    port: int
    internal: int


class HaProxy:
    """HAProxy on a free port, with its files in a folder; `paths` go to the notifiers, all else to the gateways.

    `balance` is how requests are spread over the notifiers, in HAProxy's words.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[str],
        gateways: Mapping[str, Upstream],
        notifiers: Mapping[str, Upstream],
        *,
        balance: str = "roundrobin",
    ) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "haproxy.cfg"
        file.write_text(
            _CONFIGURATION.format(
                port=self.port,
                balance=balance,
                routes="\n".join(f"    use_backend notifiers if {{ path_beg {path} }}" for path in paths),
                gateways=_servers(gateways),
                notifiers=_servers(notifiers),
            )
        )
        # In the foreground, as one process: what is started here is what is stopped.
        self.process = Program([program("haproxy", "/usr/sbin/haproxy"), "-db", "-f", str(file)], folder)

    def start(self) -> None:
        self.process.start(self._ready)

    def _ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def _servers(upstreams: Mapping[str, Upstream]) -> str:
    return "\n".join(
        f"    server {name} 127.0.0.1:{each.port} port {each.internal}" for name, each in upstreams.items()
    )
