"""The port for the gateway's metrics."""

from enum import StrEnum
from typing import Protocol

from calltag.core.domain.status import StatusCode


class GatewayLimit(StrEnum):
    """A limit that may refuse requests, by the name of its setting."""

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
        """Count an operation that RabbitMQ confirmed."""
        ...

    def refused(self, route: str, code: StatusCode) -> None:
        """Count a refused request."""
        ...

    def limited(self, limit: GatewayLimit) -> None:
        """Count a request that a limit refused."""
        ...

    def backlog(self, operations: int, age_s: float) -> None:
        """Set the longest backlog of a partition, and the age of the oldest operation taken up, as known here."""
        ...

    def answered(self, route: str, http_status: int, seconds: float) -> None:
        """Count a response, and observe its duration."""
        ...
