"""What the gateway counts."""

from typing import Protocol

from calltag.core.domain.status import StatusCode


class GatewayMetrics(Protocol):
    """The gateway's observations; labels are names of operations, routes and codes, never contents."""

    def accepted(self, operation: str) -> None:
        """An operation was confirmed by the broker."""
        ...

    def refused(self, route: str, code: StatusCode) -> None:
        """A request was refused."""
        ...

    def answered(self, route: str, http_status: int, seconds: float) -> None:
        """A request was answered."""
        ...
