"""A private Redis Cluster: three masters, each with a replica."""

from pathlib import Path

from redis.crc import key_slot
from redis.exceptions import ResponseError

from parts.ports import free_port
from parts.processes import NotStarted, Program, program
from parts.redis_asking import answers, ask, info, wait_until

_SLOTS = 16_384
_MASTERS = 3


class RedisCluster:
    """Six servers on free ports, with their files in a folder."""

    def __init__(self, folder: Path, *, node_timeout_ms: int = 1_000) -> None:
        self.ports = sorted(free_port() for _ in range(2 * _MASTERS))
        # Not ten thousand further on, as usual: those may be in use as ports of outgoing connections.
        self._buses = {port: free_port() for port in self.ports}
        self.programs: dict[int, Program] = {}
        for port in self.ports:
            own = folder / str(port)
            own.mkdir()
            options = {
                "port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": own,
                "cluster-enabled": "yes", "cluster-node-timeout": node_timeout_ms,
                "cluster-port": self._buses[port], "cluster-replica-validity-factor": 0,
                "repl-diskless-sync": "yes", "repl-diskless-sync-delay": 0, "enable-debug-command": "yes",
            }  # fmt: skip
            command = [program("redis-server")]
            for name, value in options.items():
                command += [f"--{name}", str(value)]
            self.programs[port] = Program(command, own)

    @property
    def url(self) -> str:
        return "redis://" + ",".join(f"127.0.0.1:{port}" for port in self.ports) + "/0"

    def start(self) -> None:
        for port, started in self.programs.items():
            started.start(lambda port=port: answers(port))  # type: ignore[misc]
        masters, replicas = self.ports[:_MASTERS], self.ports[_MASTERS:]
        for number, port in enumerate(self.ports):
            ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in self.ports[:1]:
            for other in self.ports[1:]:
                ask(port, "CLUSTER", "MEET", "127.0.0.1", other, self._buses[other])
        bounds = [_SLOTS * number // _MASTERS for number in range(_MASTERS + 1)]
        for number, port in enumerate(masters):
            ask(port, "CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        wait_until(lambda: all(self._knows(port) == len(self.ports) for port in self.ports))
        for master, replica in zip(masters, replicas, strict=True):
            name = ask(master, "CLUSTER", "MYID").decode()
            wait_until(lambda replica=replica, name=name: self._replicate(replica, name))  # type: ignore[misc]
        wait_until(self.whole)

    def _knows(self, port: int) -> int:
        return int(info(ask(port, "CLUSTER", "INFO"))["cluster_known_nodes"])

    def _replicate(self, port: int, master: str) -> bool:
        try:
            ask(port, "CLUSTER", "REPLICATE", master)
        except ResponseError:
            return False
        return True

    def whole(self) -> bool:
        """Whether all nodes run and see every slot served, and each master has its replica.

        A master that was killed takes itself for one for a moment when it comes again.
        """
        return (
            all(info(ask(port, "CLUSTER", "INFO"))["cluster_state"] == "ok" for port in self.ports)
            and len(self.masters()) == _MASTERS
            and all(self._linked(port) for port in self.ports)
        )

    def _linked(self, port: int) -> bool:
        role = ask(port, "ROLE")
        return bool(role[2] if role[0] == b"master" else role[3] == b"connected")

    def masters(self) -> list[int]:
        live = [port for port in self.ports if self.programs[port].running]
        return [port for port in live if ask(port, "ROLE")[0] == b"master"]

    def master_of(self, key: str) -> int:
        """The port of the node that serves a key."""
        slot = key_slot(key.encode())
        any_live = next(port for port in self.ports if self.programs[port].running)
        for first, last, node, *_ in ask(any_live, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return int(node[1])
        raise NotStarted("the slot has no node")

    def replica_of(self, port: int) -> int:
        [[_, replica, _]] = ask(port, "ROLE")[2]
        return int(replica)

    def revive(self) -> None:
        """Start again what was killed, and wait until every master has a replica."""
        for port, each in self.programs.items():
            if not each.running:
                each.start(lambda port=port: answers(port))  # type: ignore[misc]
        wait_until(self.whole)

    def clear(self) -> None:
        """Forget everything."""
        for port in self.masters():
            ask(port, "FLUSHALL")

    def kill(self) -> None:
        for started in self.programs.values():
            started.kill()
