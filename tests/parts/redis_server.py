"""A private Redis."""

from pathlib import Path

import redis

from parts.ports import free_port
from parts.processes import Program, program


class RedisServer:
    """Redis on a free port, with its files in a folder; `more` are further arguments."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        command = [program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = Program([*command, "--appendonly", "yes", "--dir", str(folder), *more], folder)

    def start(self) -> None:
        self.process.start(self._ready)

    def clear(self) -> None:
        """Forget everything."""
        with redis.Redis(port=self.port) as client:
            client.flushall()

    def _ready(self) -> bool:
        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
