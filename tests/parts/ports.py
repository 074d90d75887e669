"""Free ports."""

import secrets
import socket

_LOWEST, _HIGHEST = 10_000, 32_767


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago.

    It is none of those that outgoing connections get: a server that is killed finds it free when it starts again.
    """
    while True:
        port = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
