"""One CometD session, as a plain value with the rules of its own queue."""

from collections import deque
from dataclasses import dataclass, field

from calltag.core.bayeux.channels import matches
from calltag.core.bayeux.codec import Reply
from calltag.core.bayeux.limits import BayeuxLimits


@dataclass(frozen=True, slots=True)
class Held:
    """A /meta/connect whose reply waits. `cycle` numbers the connects of a session."""

    cycle: int
    reply: Reply
    deadline_ms: int


@dataclass(slots=True)
class Session:
    """A session belongs to a user. One that was made by credentials in the handshake (`by_ext`) needs no other proof
    than its id afterwards; any other needs requests that are the user's."""

    client_id: str
    user: str
    by_ext: bool = False
    subscriptions: dict[str, None] = field(default_factory=dict)
    streaming: bool = False
    connected: bool = False
    cycle: int = 0
    held: Held | None = None
    interval_ms: int = 0
    expires_at_ms: int = 0
    noted_deadline_ms: int = 0
    queue: deque[bytes] = field(default_factory=deque)
    queued_bytes: int = 0
    dropped: int = 0

    def subscribed(self, channel: str) -> bool:
        """Whether a message on the channel is for this session."""
        return channel in self.subscriptions or any(matches(pattern, channel) for pattern in self.subscriptions)

    def enqueue(self, event: bytes, limits: BayeuxLimits) -> int:
        """Queue an event; returns how many older ones had to go to stay within the limits."""
        self.queue.append(event)
        self.queued_bytes += len(event)
        gone = 0
        while len(self.queue) > 1 and (
            len(self.queue) > limits.max_queued_events or self.queued_bytes > limits.max_queued_bytes
        ):
            self.queued_bytes -= len(self.queue.popleft())
            gone += 1
        self.dropped += gone
        return gone

    def take(self) -> list[bytes]:
        """Everything that is queued, oldest first; the queue is empty afterwards."""
        events = list(self.queue)
        self.queue.clear()
        self.queued_bytes = 0
        return events
