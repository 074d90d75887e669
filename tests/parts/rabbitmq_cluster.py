"""Three RabbitMQ nodes on this machine that are one cluster; each can be killed, frozen and started again."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from parts.rabbitmq import PortMapper, RabbitMq

_TICK_S = 8
"""How long a node is silent before the others take it for gone. RabbitMQ's own default is a minute."""


class RabbitMqCluster:
    """Three nodes; one that sees no majority pauses."""

    def __init__(self, folder: Path) -> None:
        self._mapper = PortMapper(folder)
        self.nodes: list[RabbitMq] = []
        for number in range(3):
            place = folder / f"node-{number}"
            place.mkdir()
            self.nodes.append(
                RabbitMq(place, home=folder, mapper=self._mapper, erlang_arguments=f"-kernel net_ticktime {_TICK_S}")
            )
        joined = "".join(
            f"cluster_formation.classic_config.nodes.{number} = {node.name}\n"
            for number, node in enumerate(self.nodes, 1)
        )
        for node in self.nodes:
            with node.configuration.open("a") as configuration:
                configuration.write(
                    "cluster_formation.peer_discovery_backend = classic_config\n"
                    f"{joined}cluster_partition_handling = pause_minority\n"
                )

    @property
    def url(self) -> str:
        """The addresses of all nodes."""
        return ",".join(node.url for node in self.nodes)

    def start(self) -> None:
        """Start all nodes, and wait until they are members and serve."""
        # The first one forms the cluster, which the others find.
        self.nodes[0].start()
        with ThreadPoolExecutor() as pool:
            list(pool.map(RabbitMq.start, self.nodes[1:]))
        # A node takes connections a moment before the others count on it, and a queue that is declared then has fewer
        # replicas.
        ends = time.monotonic() + 60
        while any(self.misses(node, *self.nodes) for node in self.nodes):
            assert time.monotonic() < ends, "the nodes do not find one another"

    def end(self) -> None:
        """End all nodes and the port mapper."""
        for node in self.nodes:
            node.process.kill()
        self._mapper.kill()

    def leader(self, queue: str) -> RabbitMq:
        """The node on which a queue's leader is, as the first node that runs sees it."""
        asked = next(node for node in self.nodes if node.process.running)
        listed = asked.control("list_queues", "name", "pid", "--no-table-headers").splitlines()
        [pid] = [pid for name, pid in (line.split("\t") for line in listed) if name == queue]
        return next(node for node in self.nodes if node.name in pid)

    def freeze(self, node: RabbitMq) -> None:
        """Stop a node without ending it: the others lose it, and its connections stay and are silent."""
        node.process.signal(signal.SIGSTOP)

    def thaw(self, node: RabbitMq) -> None:
        """Let a frozen node go on: it finds itself apart from the others, as after a break of the network."""
        node.process.signal(signal.SIGCONT)

    def misses(self, node: RabbitMq, *others: RabbitMq) -> bool:
        """Whether a node takes any of the others for gone."""
        running = node.control("eval", "rabbit_nodes:all_running().")
        return any(f"'{other.name}'" not in running for other in others)
