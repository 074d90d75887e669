"""A private RabbitMQ: own node name, ports, cookie and port mapper, so that it meets no other."""

import socket
import subprocess
from pathlib import Path

from parts.ports import free_port
from parts.processes import Program, program

_TOOLS = Path("/usr/lib/rabbitmq/bin")
_PORT_MAPPERS = Path("/usr/lib/erlang")


def _tool(name: str) -> str:
    """The program itself: the one in /usr/sbin changes the user. Another one may be chosen."""
    found = program(name, f"/usr/sbin/{name}")
    own = _TOOLS / name
    return str(own) if found.startswith(("/usr/sbin", "/usr/bin")) and own.exists() else found


class PortMapper:
    """Erlang's epmd, through which nodes find each other. Started here, and not by the server as a daemon: that one
    would outlive the run."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.environment = {"ERL_EPMD_PORT": str(self.port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        (folder / "epmd").mkdir()
        epmd = program("epmd", *map(str, _PORT_MAPPERS.glob("erts-*/bin/epmd")))
        self._process = Program([epmd], folder / "epmd", self.environment)

    def start(self) -> None:
        if not self._process.running:
            self._process.start(self._is_mapped)

    def kill(self) -> None:
        self._process.kill()

    def _is_mapped(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


class RabbitMq:
    """RabbitMQ on a free port, with its files in a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        home: Path | None = None,
        mapper: PortMapper | None = None,
        configuration: str = "",
        erlang_arguments: str = "",
    ) -> None:
        """Nodes of one cluster share `home`, where the cookie is, and the port mapper."""
        self.port = free_port()
        self.name = f"calltag-{self.port}@localhost"
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.configuration = folder / "rabbitmq.conf"
        server = _tool("rabbitmq-server")
        self.configuration.write_text(
            f"vm_memory_high_watermark.relative = 0.6\ndisk_free_limit.absolute = 10MB\n{configuration}"
        )
        (folder / "plugins").write_text("[].\n")
        self._mapper = mapper or PortMapper(folder)
        environment = {
            **self._mapper.environment,
            "HOME": str(home or folder),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.configuration),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 +sbwt none {erlang_arguments}".strip(),
        }
        self.process = Program([server], folder, environment)

    def start(self) -> None:
        self._mapper.start()
        self.process.start(self.ready, within_s=90)

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl on the server; returns what it prints."""
        done = subprocess.run(
            [_tool("rabbitmqctl"), "--quiet", *arguments],
            check=True,
            capture_output=True,
            timeout=60,
            env=self.process.environment,
        )
        return done.stdout.decode()

    def end(self) -> None:
        """End the server and the port mapper."""
        self.process.kill()
        self._mapper.kill()

    def ready(self) -> bool:
        """Whether it takes connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return len(connection.recv(8)) > 0
        except OSError:
            return False
