"""What the CometD side of a notifier observes."""

from enum import StrEnum
from typing import Protocol


class Limit(StrEnum):
    """A limit that something met, by the name of its setting in `CALLTAG_NOTIFIER__`."""

    SESSIONS = "max_sessions"
    SESSIONS_OF_USER = "max_sessions_per_user"
    SESSIONS_OF_ADDRESS = "max_sessions_per_address"
    HANDSHAKES = "handshakes_per_s"
    HANDSHAKES_OF_ADDRESS = "handshakes_per_s_per_address"
    REFUSED_HANDSHAKES = "max_refused_handshakes"
    SUBSCRIPTIONS = "max_subscriptions"
    MESSAGES = "max_messages"
    BODY_BYTES = "max_body_bytes"
    DEPTH = "max_depth"
    QUEUED_EVENTS = "max_queued_events"
    QUEUED_BYTES = "max_queued_bytes"
    QUEUED_BYTES_TOTAL = "max_queued_bytes_total"


class HubMetrics(Protocol):
    """Counts; labels are channels that calltag publishes on, codes of errors, and limits."""

    def received(self, messages: int) -> None:
        """Bayeux messages came in."""
        ...

    def refused(self, error: str) -> None:
        """A message was refused, with an error in the form `code:arguments:text`."""
        ...

    def limited(self, limit: Limit) -> None:
        """Something was refused, or put off, because of a limit."""
        ...

    def begun(self) -> None:
        """A handshake made a session."""
        ...

    def delivered(self, channel: str, sessions: int) -> None:
        """A message was put into the queues of sessions."""
        ...

    def handed_over(self, latency_s: float, times: int = 1) -> None:
        """An event went from a session's queue to its transport, so long after what it tells of was accepted."""
        ...

    def redelivered(self, events: int) -> None:
        """Events that were sent before went to a transport again."""
        ...

    def resumed(self) -> None:
        """A session came here from another node."""
        ...

    def swept(self) -> None:
        """A silent session was forgotten."""
        ...

    def gap(self) -> None:
        """An event did not come over the bus, and was read from the stream."""
        ...
