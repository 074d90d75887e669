"""What the gateway counts."""

from enum import StrEnum
from typing import Protocol

from calltag.core.domain.status import StatusCode


class GatewayLimit(StrEnum):
    """A limit that requests may meet, by the name of its setting."""

    QUEUED_REQUESTS = "max_queued_requests"
    QUEUE_DEADLINE = "queue_deadline_s"
    LIVE_CALLS = "max_live_calls"
    CALLS_BYTES = "max_calls_bytes"
    IN_FLIGHT = "max_in_flight"
    WAITING = "max_waiting"
    BACKLOG = "max_backlog"
    BACKLOG_AGE = "max_backlog_age_s"
    USER_RATE = "user_operations_per_s"
    ADDRESS_RATE = "address_operations_per_s"


class GatewayMetrics(Protocol):
    """The gateway's observations; labels are names of operations, routes and codes, never contents."""

    def accepted(self, operation: str) -> None:
        """An operation was confirmed by the broker."""
        ...

    def refused(self, route: str, code: StatusCode) -> None:
        """A request was refused."""
        ...

    def limited(self, limit: GatewayLimit) -> None:
        """A request was refused as a limit was met."""
        ...

    def backlog(self, operations: int, age_s: float) -> None:
        """The most that waits in a partition, and the oldest that a worker took up, as far as this gateway knows."""
        ...

    def answered(self, route: str, http_status: int, seconds: float) -> None:
        """A request was answered."""
        ...
