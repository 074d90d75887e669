"""The names of the keys in Redis.

What belongs to a partition has it as hash tag, so that one script can change it in one slot of a Redis Cluster.
"""

from dataclasses import dataclass

from calltag.core.bus.partitioning import hash_tag
from calltag.core.bus.ports import NodeId, Partition
from calltag.core.domain.ids import UserId


@dataclass(frozen=True, slots=True)
class StateKeys:
    """The keys of one call or agent: its fields, its user data, the operations done and their order."""

    state: str
    data: str
    done: str
    order: str

    def all(self) -> tuple[str, ...]:
        return (self.state, self.data, self.done, self.order)


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys of an installation begin with `prefix`."""

    prefix: str = "calltag"

    def epoch(self, partition: Partition) -> str:
        """Counter: how often the partition was taken over."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:epoch"

    def outbox(self, partition: Partition) -> str:
        """List: events committed and not yet known to be sent, oldest first."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:outbox"

    def state(self, partition: Partition, key: str) -> StateKeys:
        """Hash, hash, hash and list of the call or agent named by `key` (`call:<id>`, `agent:<user>`)."""
        base = f"{self.prefix}:{{{hash_tag(partition)}}}:{key}"
        return StateKeys(base, f"{base}:userdata", f"{base}:done", f"{base}:order")

    def calls_of(self, user: UserId) -> str:
        """Set: ids of the user's live calls."""
        return f"{self.prefix}:user:{user}:calls"

    def nodes_of(self, user: UserId) -> str:
        """Set: nodes with sessions of the user."""
        return f"{self.prefix}:user:{user}:nodes"

    def users_of(self, node: NodeId) -> str:
        """Set: users with sessions on the node."""
        return f"{self.prefix}:node:{node}:users"

    def workers(self) -> str:
        """Sorted set: workers by the end of their lease, in milliseconds of the server's clock."""
        return f"{self.prefix}:workers"

    def installation(self) -> str:
        """Hash: what was fixed when the installation was made."""
        return f"{self.prefix}:installation"

    def idempotency(self, user: UserId, digest: str) -> str:
        """String: the request made under an idempotency key, and its answer."""
        return f"{self.prefix}:user:{user}:idempotency:{digest}"
