"""The name of a process, by which operators recognise it in logs, queues and lists."""

import re
import secrets
import socket
from typing import Final

_OTHER: Final = re.compile(r"[^A-Za-z0-9-]+")
_LONGEST_HOST: Final = 80


def instance_name() -> str:
    """Return the name of the machine or pod with eight random digits: each start has another one."""
    host = _OTHER.sub("-", socket.gethostname()).strip("-")[:_LONGEST_HOST] or "unknown"
    return f"{host}-{secrets.token_hex(4)}"
