"""Asking a server of Redis something, without a client that interprets the answer."""

import time
from collections.abc import Callable
from typing import Any

import redis

from parts.processes import NotStarted


def ask(port: int, *command: object, timeout_s: float = 5.0) -> Any:
    """The plain answer of the server on a port."""
    make: Any = redis.Connection
    connection = make(
        host="127.0.0.1", port=port, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, protocol=2
    )
    try:
        connection.send_command(*command)
        return connection.read_response()
    finally:
        connection.disconnect()


def info(raw: bytes) -> dict[str, str]:
    """The fields of an INFO, of whatever kind."""
    lines = [line for line in raw.decode().splitlines() if ":" in line]
    return dict(line.split(":", 1) for line in lines)


def answers(port: int) -> bool:
    """Whether the server on a port is up."""
    try:
        return bool(ask(port, "PING"))
    except redis.RedisError:
        return False


def wait_until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait until the condition holds. Raises NotStarted."""
    ends = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > ends:
            raise NotStarted(f"not so within {within_s:g} s")
        time.sleep(0.02)
