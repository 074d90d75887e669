"""A private RabbitMQ: own node name, ports, cookie and port mapper, so that it meets no other."""

import socket
import subprocess
from pathlib import Path

from parts.ports import free_port
from parts.processes import Program, program

_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
_CONTROL = "/usr/lib/rabbitmq/bin/rabbitmqctl"
_PORT_MAPPERS = Path("/usr/lib/erlang")


class RabbitMq:
    """RabbitMQ on a free port, with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        server = _SERVER if Path(_SERVER).exists() else program("rabbitmq-server", "/usr/sbin/rabbitmq-server")
        (folder / "rabbitmq.conf").write_text(
            "vm_memory_high_watermark.relative = 0.6\ndisk_free_limit.absolute = 10MB\n"
        )
        (folder / "plugins").write_text("[].\n")
        self._mapped_port = free_port()
        environment = {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._mapped_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"calltag-{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
        }
        self.process = Program([server], folder, environment)
        # Started here, and not by the server as a daemon: that one would outlive the run.
        (folder / "epmd").mkdir()
        epmd = program("epmd", *map(str, _PORT_MAPPERS.glob("erts-*/bin/epmd")))
        self._port_mapper = Program([epmd], folder / "epmd", environment)

    def start(self) -> None:
        if not self._port_mapper.running:
            self._port_mapper.start(self._is_mapped)
        self.process.start(self._ready, within_s=90)

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl on the server; returns what it wrote."""
        tool = _CONTROL if Path(_CONTROL).exists() else program("rabbitmqctl", "/usr/sbin/rabbitmqctl")
        run = subprocess.run(
            [tool, *arguments], check=True, capture_output=True, text=True, timeout=60, env=self.process.environment
        )
        return run.stdout

    def end(self) -> None:
        """End the server and the port mapper."""
        self.process.kill()
        self._port_mapper.kill()

    def _is_mapped(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._mapped_port), timeout=1).close()
        except OSError:
            return False
        return True

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return len(connection.recv(8)) > 0
        except OSError:
            return False
