"""How fast users and addresses may send operations: each has a bucket of its own, in this process."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

from calltag.core.runtime.token_bucket import TokenBucket
from calltag.gateway.errors import TooManyOperations
from calltag.gateway.metrics import GatewayMetrics, Limit


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`per_s` operations a second in the long run, `burst` at once; 0 a second is no limit."""

    per_s: float = 0.0
    burst: int = 1


@dataclass(slots=True)
class Buckets:
    """One bucket for each name, for the `most` names that were heard of last.

    A name that is forgotten begins with a full bucket again.
    """

    limit: RateLimit
    most: int
    _of: OrderedDict[str, TokenBucket] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._of)

    def wait_s(self, name: str, now_ms: int) -> float:
        """0 if one more may pass; otherwise in how many seconds it may."""
        if not self.limit.per_s:
            return 0.0
        bucket = self._of.pop(name, None) or TokenBucket(self.limit.per_s, self.limit.burst)
        self._of[name] = bucket
        if len(self._of) > self.most:
            self._of.popitem(last=False)
        return 0.0 if bucket.take(now_ms) else bucket.next_in_s(now_ms)


@dataclass(frozen=True, slots=True)
class Rates:
    """The limits of users and of addresses."""

    users: Buckets
    addresses: Buckets
    metrics: GatewayMetrics
    clock_ms: Callable[[], int]

    def check(self, user: str, address: str) -> None:
        """One operation of a user came from an address. Raises TooManyOperations."""
        now_ms = self.clock_ms()
        self._check(self.addresses.wait_s(address, now_ms), self.addresses, Limit.ADDRESS_RATE, "this address")
        self._check(self.users.wait_s(user, now_ms), self.users, Limit.USER_RATE, "one user")

    def _check(self, wait_s: float, buckets: Buckets, limit: Limit, whose: str) -> None:
        if wait_s:
            self.metrics.limited(limit)
            raise TooManyOperations(f"{buckets.limit.per_s:g} operations a second are taken of {whose}", ceil(wait_s))
