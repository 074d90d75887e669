"""A private Redis master with two replicas, watched by three Sentinels."""

import contextlib
from pathlib import Path

import redis

from parts.ports import free_port
from parts.processes import Program, program
from parts.redis_asking import answers, ask, wait_until

SERVICE = "calltag"


class RedisSentinel:
    """Three servers and three Sentinels on free ports, with their files in a folder."""

    def __init__(self, folder: Path, *, down_after_ms: int = 1_000) -> None:
        self.ports = [free_port() for _ in range(3)]
        self.sentinel_ports = [free_port() for _ in range(3)]
        self.programs: dict[int, Program] = {}
        for port in self.ports:
            own = folder / str(port)
            own.mkdir()
            command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            command += ["--dir", str(own), "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes"]
            if port != self.ports[0]:
                command += ["--replicaof", "127.0.0.1", str(self.ports[0])]
            self.programs[port] = Program(command, own)
        for port in self.sentinel_ports:
            own = folder / str(port)
            own.mkdir()
            (own / "sentinel.conf").write_text(
                f"port {port}\nbind 127.0.0.1\ndir {own}\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.ports[0]} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}\n"
                f"sentinel failover-timeout {SERVICE} 3000\n"
            )
            self.programs[port] = Program([program("redis-server"), str(own / "sentinel.conf"), "--sentinel"], own)

    @property
    def url(self) -> str:
        return "redis://" + ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports) + "/0"

    def start(self) -> None:
        for port, started in self.programs.items():
            started.start(lambda port=port: answers(port))  # type: ignore[misc]
        wait_until(self.whole)

    def whole(self) -> bool:
        """Whether the master has both replicas, and all Sentinels name it and know of them and of each other."""
        master = self.master()
        return (
            master is not None
            and len(ask(master, "ROLE")[2]) == 2
            and all(self._named_by(port) == master for port in self.sentinel_ports)
            and all(self._sees(port) == (b"2", b"2") for port in self.sentinel_ports)
        )

    def _sees(self, sentinel: int) -> tuple[bytes, bytes]:
        flat = ask(sentinel, "SENTINEL", "MASTER", SERVICE)
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        return fields[b"num-slaves"], fields[b"num-other-sentinels"]

    def master(self) -> int | None:
        """The port of the server that the Sentinels name, if it is a master already."""
        with contextlib.suppress(redis.RedisError):
            port = self._named_by(self.sentinel_ports[0])
            return port if ask(port, "ROLE", timeout_s=1)[0] == b"master" else None
        return None

    def _named_by(self, sentinel: int) -> int:
        return int(ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    def replicas(self) -> list[int]:
        master = self.master()
        return [port for port in self.ports if port != master and self.programs[port].running]

    def revive(self) -> None:
        """Start again what was killed, and wait until all is as at the beginning."""
        for port, each in self.programs.items():
            if not each.running:
                each.start(lambda port=port: answers(port))  # type: ignore[misc]
        wait_until(self.whole, within_s=60)

    def clear(self) -> None:
        """Forget everything."""
        master = self.master()
        assert master is not None
        ask(master, "FLUSHALL")

    def kill(self) -> None:
        for started in self.programs.values():
            started.kill()
