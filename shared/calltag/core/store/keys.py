"""The names of the keys in Redis.

What belongs to a partition has it as hash tag, so that one script can change it in one slot of a Redis Cluster.
"""

from dataclasses import dataclass

from calltag.core.bus.partitioning import hash_tag
from calltag.core.bus.ports import Partition
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
        """Number: it rises when the partition is taken over."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:epoch"

    def position(self, partition: Partition) -> str:
        """Counter: the commits of the partition."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:position"

    def losses(self, partition: Partition) -> str:
        """Hash: what the store has lost of the partition so far: `commits`, `gone` of them for good, `at_ms`.

        `last`, `last_commits` and `last_gone` are of the loss that was added last.
        """
        return f"{self.prefix}:{{{hash_tag(partition)}}}:losses"

    def outbox(self, partition: Partition) -> str:
        """List: events committed and not yet known to be sent, oldest first."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:outbox"

    def live(self, partition: Partition) -> str:
        """Sorted set: live calls (`call:<id>`) by their last change, in milliseconds of the server's clock."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:live"

    def blocks(self, partition: Partition) -> str:
        """Hash: the calls and agents of which an operation is parked, each with its mark."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:blocks"

    def attempts(self, partition: Partition) -> str:
        """Hash: by operation, the ids of attempts of which workers may have crashed, separated by blanks."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:attempt-ids"

    def state(self, partition: Partition, key: str) -> StateKeys:
        """Hash, hash, hash and list of the call or agent named by `key` (`call:<id>`, `agent:<user>`)."""
        base = f"{self.prefix}:{{{hash_tag(partition)}}}:{key}"
        return StateKeys(base, f"{base}:userdata", f"{base}:done", f"{base}:order")

    def calls_of(self, user: UserId) -> str:
        """Set: ids of the user's live calls."""
        return self._of_user(user, "calls")

    def nodes_of(self, user: UserId) -> str:
        """Set: nodes with sessions of the user."""
        return self._of_user(user, "nodes")

    def stream_of(self, user: UserId) -> str:
        """Stream: the user's recent events, `p` the position before, `e` the event."""
        return self._of_user(user, "events")

    def watchers_of(self, user: UserId) -> str:
        """Sorted set: who watches the user's calls, by the end of the watch in milliseconds of the server's clock."""
        return self._of_user(user, "watchers")

    def watchers_of_all(self) -> str:
        """Sorted set: the same for all calls of the installation."""
        return f"{self.prefix}:{{watchers}}"

    def watched_since(self, user: UserId) -> str:
        """Hash: since when each of them watches without a break, in milliseconds of the server's clock."""
        return self._of_user(user, "watchers:since")

    def all_watched_since(self) -> str:
        """Hash: the same for those who watch all calls."""
        return f"{self.prefix}:{{watchers}}:since"

    def watching(self, user: UserId) -> str:
        """String: there as long as the user watches calls of others."""
        return self._of_user(user, "watching")

    def added_to(self, user: UserId, subject: str) -> str:
        """String: version and positions of the event about the subject that was added last to the user's stream."""
        return self._of_user(user, f"added:{subject}")

    def cometd_session(self, user: UserId, digest: str) -> str:
        """Hash: a CometD session of the user's. Its id may be all that its client has to show: keys have its digest."""
        return self._of_user(user, f"session:{digest}")

    def cometd_session_end(self, user: UserId, digest: str) -> str:
        """String: for seconds after the end of a CometD session, the request that ended it, why, holder and login."""
        return self._of_user(user, f"end:{digest}")

    def cometd_sessions(self, user: UserId) -> str:
        """Sorted set: digests of the ids of the user's CometD sessions, by their end in ms of the server's clock."""
        return self._of_user(user, "sessions")

    def notifier(self, node: str) -> str:
        """String: there as long as the notifier's lease."""
        return f"{self.prefix}:notifier:{node}"

    def _of_user(self, user: UserId, name: str) -> str:
        """What belongs to a user has the user as hash tag, for the same reason."""
        return f"{self.prefix}:{{u:{user}}}:{name}"

    def lags(self) -> str:
        """Hash: how old the operations of each partition are when its worker takes them up, in milliseconds."""
        return f"{self.prefix}:lags"

    def published(self) -> str:
        """Hash: what all gateways published to each partition, counted in messages (`7:m`) and operations (`7:o`)."""
        return f"{self.prefix}:{{published}}"

    def last_published(self, gateway: str) -> str:
        """String: the last request with which a gateway added to that."""
        return f"{self.prefix}:{{published}}:{gateway}"

    def workers(self) -> str:
        """Sorted set: workers by the end of their lease, in milliseconds of the server's clock."""
        return f"{self.prefix}:{{workers}}"

    def worker_places(self) -> str:
        """Sorted set: workers by their place in the list from which the partitions are shared out, from 0."""
        return f"{self.prefix}:{{workers}}:places"

    def worker_reports(self) -> str:
        """Hash: what each worker told last of the partitions that it consumes, as JSON."""
        return f"{self.prefix}:{{workers}}:reports"

    def installation(self) -> str:
        """Hash: what was fixed when the installation was made."""
        return f"{self.prefix}:installation"

    def idempotency(self, user: UserId, digest: str) -> str:
        """String: the request made under an idempotency key, and its answer."""
        return self._of_user(user, f"idempotency:{digest}")
