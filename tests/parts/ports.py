"""Free ports, each given away once on this machine for as long as the test process lives."""

import random
import socket
from pathlib import Path
from typing import Final

_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 10_000
_held: Final[list[socket.socket]] = []


def free_port() -> int:
    """A TCP port on loopback that nobody listens on and no other test process is given.

    It lies below the range that the kernel takes the ports of outgoing connections from: one of those may be in use at
    the moment when a server wants to listen.
    """
    beyond = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    while True:
        port = random.SystemRandom().randrange(_LOWEST, max(beyond, _LOWEST + 5_000))
        if _reserve(port) and _is_free(port):
            return port


def _reserve(port: int) -> bool:
    """Hold a name in the abstract namespace for the port; the kernel gives it up when the process ends."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0calltag-test-port-{port}")
    except OSError:
        name.close()
        return False
    _held.append(name)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
