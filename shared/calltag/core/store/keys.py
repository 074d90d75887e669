"""Names of the keys in Redis.

Keys of a partition have it as hash tag, so that one script can change them in one slot of a Redis Cluster.
"""

from dataclasses import dataclass

from calltag.core.broker.ports import Partition, hash_tag
from calltag.core.domain.ids import UserId


@dataclass(frozen=True, slots=True)
class StateKeys:
    """Keys of one call or agent: its fields, its user data, the operations done and their order."""

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
        """Number: epoch of the partition, raised by each take-over."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:epoch"

    def position(self, partition: Partition) -> str:
        """Counter: number of commits of the partition."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:position"

    def losses(self, partition: Partition) -> str:
        """Hash: losses of the partition by failovers: `commits`, `lost_for_good` of them beyond recovery, `at_ms`.

        `last`, `last_commits` and `last_lost_for_good` describe the loss added last.
        """
        return f"{self.prefix}:{{{hash_tag(partition)}}}:losses"

    def outbox(self, partition: Partition) -> str:
        """List: committed events not yet known to be published, oldest first."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:outbox"

    def live(self, partition: Partition) -> str:
        """Sorted set: live calls (`call:<id>`) by their last change, in milliseconds of the server's clock."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:live"

    def blocks(self, partition: Partition) -> str:
        """Hash: blocks of the calls and agents that have a parked operation."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:blocks"

    def attempts(self, partition: Partition) -> str:
        """Hash: by operation, the ids of attempts that may have crashed workers, separated by blanks."""
        return f"{self.prefix}:{{{hash_tag(partition)}}}:attempt-ids"

    def state(self, partition: Partition, key: str) -> StateKeys:
        """Hash, hash, hash and list: the call or agent named by `key` (`call:<id>`, `agent:<user>`)."""
        base = f"{self.prefix}:{{{hash_tag(partition)}}}:{key}"
        return StateKeys(base, f"{base}:userdata", f"{base}:done", f"{base}:order")

    def calls_of(self, user: UserId) -> str:
        """Set: ids of the user's live calls."""
        return self._of_user(user, "calls")

    def nodes_of(self, user: UserId) -> str:
        """Set: nodes with sessions of the user."""
        return self._of_user(user, "nodes")

    def stream_of(self, user: UserId) -> str:
        """Stream: the user's recent events; `p` is the previous position, `e` the event."""
        return self._of_user(user, "events")

    def watchers_of(self, user: UserId) -> str:
        """Sorted set: watchers of the user's calls, by the end of the watch in milliseconds of the server's clock."""
        return self._of_user(user, "watchers")

    def watchers_of_all(self) -> str:
        """Sorted set: watchers of all calls, by the end of the watch in milliseconds of the server's clock."""
        return f"{self.prefix}:{{watchers}}"

    def watched_since(self, user: UserId) -> str:
        """Hash: by watcher, the start of the uninterrupted watch, in milliseconds of the server's clock."""
        return self._of_user(user, "watchers:since")

    def all_watched_since(self) -> str:
        """Hash: by watcher of all calls, the start of the watch, in milliseconds of the server's clock."""
        return f"{self.prefix}:{{watchers}}:since"

    def watching(self, user: UserId) -> str:
        """String: present while the user watches calls of others."""
        return self._of_user(user, "watching")

    def added_to(self, user: UserId, subject: str) -> str:
        """String: version and positions of the last event about the subject in the user's stream."""
        return self._of_user(user, f"added:{subject}")

    def cometd_session(self, user: UserId, digest: str) -> str:
        """Hash: a CometD session. Its id may be a bearer credential, so keys contain only its digest."""
        return self._of_user(user, f"session:{digest}")

    def cometd_session_end(self, user: UserId, digest: str) -> str:
        """String: tombstone (5 s) of a CometD session: the request that ended it, reason, home and login."""
        return self._of_user(user, f"end:{digest}")

    def cometd_sessions(self, user: UserId) -> str:
        """Sorted set: digests of the ids of the user's CometD sessions, by their end in ms of the server's clock."""
        return self._of_user(user, "sessions")

    def notifier(self, node: str) -> str:
        """String: present while the notifier's lease is valid."""
        return f"{self.prefix}:notifier:{node}"

    def _of_user(self, user: UserId, name: str) -> str:
        """Return a key with the user as hash tag, for the same reason."""
        return f"{self.prefix}:{{u:{user}}}:{name}"

    def lags(self) -> str:
        """Hash: by partition, the age of operations when the worker starts them, in milliseconds."""
        return f"{self.prefix}:lags"

    def published(self) -> str:
        """Hash: totals published by all gateways to each partition, in messages (`7:m`) and operations (`7:o`)."""
        return f"{self.prefix}:{{published}}"

    def last_published(self, gateway: str) -> str:
        """String: id of the last request with which a gateway added to the totals."""
        return f"{self.prefix}:{{published}}:{gateway}"

    def workers(self) -> str:
        """Sorted set: workers by the end of their lease, in milliseconds of the server's clock."""
        return f"{self.prefix}:{{workers}}"

    def worker_places(self) -> str:
        """Sorted set: workers by their place, from 0, in the list by which partitions are assigned."""
        return f"{self.prefix}:{{workers}}:places"

    def worker_reports(self) -> str:
        """Hash: by worker, its last report of the partitions that it consumes, as JSON."""
        return f"{self.prefix}:{{workers}}:reports"

    def processes(self) -> str:
        """Hash: by instance, the running processes of all services, as JSON."""
        return f"{self.prefix}:processes"

    def installation(self) -> str:
        """Hash: properties fixed at the first start of the installation."""
        return f"{self.prefix}:installation"

    def idempotency(self, user: UserId, digest: str) -> str:
        """String: the request made under an idempotency key, and its reply."""
        return self._of_user(user, f"idempotency:{digest}")
