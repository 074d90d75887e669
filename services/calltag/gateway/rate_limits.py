"""Rate limits of operations: a token bucket for each user and each address, in this process."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from calltag.core.process.limits import Buckets
from calltag.gateway.errors import TooManyOperations
from calltag.gateway.metrics import GatewayLimit, GatewayMetrics


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The rate limits of users and of client addresses."""

    users: Buckets
    addresses: Buckets
    metrics: GatewayMetrics
    clock_ms: Callable[[], int]

    def check(self, user: str, address: str) -> None:
        """Count one operation of a user from an address. Raises TooManyOperations."""
        now_ms = self.clock_ms()
        self._check(self.addresses.wait_s(address, now_ms), self.addresses, GatewayLimit.ADDRESS_RATE, "this address")
        self._check(self.users.wait_s(user, now_ms), self.users, GatewayLimit.USER_RATE, "one user")

    def _check(self, wait_s: float, buckets: Buckets, limit: GatewayLimit, whose: str) -> None:
        if wait_s:
            self.metrics.limited(limit)
            raise TooManyOperations(f"{buckets.limit.per_s:g} operations a second are allowed to {whose}", ceil(wait_s))
