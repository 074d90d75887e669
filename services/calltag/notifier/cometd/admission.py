"""Whom this node lets in: it serves those that it has well, and sends others on, rather than serve all badly."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NoReturn

from calltag.core.bayeux import errors
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.runtime.token_bucket import Buckets, RateLimit, TokenBucket
from calltag.notifier.cometd.addresses import Addresses, network_of
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.metrics import HubMetrics, Limit

_COME_BACK_MS: Final = (2_000, 10_000)
_RETRY_AFTER_S: Final = (1, 5)


class Crowded(Exception):
    """There are as many as there may be; `error` is what a Bayeux reply says of it."""

    def __init__(self, text: str, error: str) -> None:
        super().__init__(text)
        self.error = error


def come_back_ms() -> int:
    """When a client that was refused is to try again: those who came together are not to come back together."""
    return random.randint(*_COME_BACK_MS)  # noqa: S311 - spreads load, protects nothing


def retry_after_s() -> int:
    """The same for the Retry-After header."""
    return random.randint(*_RETRY_AFTER_S)  # noqa: S311 - spreads load, protects nothing


@dataclass(slots=True)
class Admission:
    """Holds handshakes and sessions to the limits of this node."""

    limits: BayeuxLimits
    local: Local
    metrics: HubMetrics
    clock_ms: Callable[[], int]
    addresses: Addresses = field(default_factory=Addresses)
    _handshakes: TokenBucket = field(init=False)
    _handshakes_of_addresses: Buckets = field(init=False)
    _arriving: int = 0

    def __post_init__(self) -> None:
        limits = self.limits
        self._handshakes = TokenBucket(limits.handshakes_per_s, limits.handshake_burst)
        of_address = RateLimit(limits.handshakes_per_s_per_address, limits.handshake_burst_per_address)
        self._handshakes_of_addresses = Buckets(of_address, limits.max_handshake_addresses)

    def handshake(self, address: str) -> None:
        """A handshake with credentials came from the address; nothing was spent on it yet. Raises Crowded.

        Each address has a rate of its own, so that one cannot take that of all.
        """
        self._check_sessions()
        now_ms, limits = self.clock_ms(), self.limits
        if address and self._handshakes_of_addresses.wait_s(network_of(address), now_ms):
            self._refuse_handshake(Limit.HANDSHAKES_OF_ADDRESS, limits.handshakes_per_s_per_address)
        if not self._handshakes.take(now_ms):
            self._refuse_handshake(Limit.HANDSHAKES, limits.handshakes_per_s)

    def _refuse_handshake(self, limit: Limit, per_s: float) -> NoReturn:
        self.metrics.limited(limit)
        raise Crowded(
            f"{per_s:g} handshakes a second are answered here (CALLTAG_NOTIFIER__{limit.upper()})",
            errors.too_many_handshakes(per_s),
        )

    def begin(self, client_id: str, address: str) -> None:
        """A session is about to begin for a client at that address. Raises Crowded."""
        most = self.limits.max_sessions_per_address
        if not most or not address:
            return
        if self.addresses.count(address) >= most:
            self.metrics.limited(Limit.SESSIONS_OF_ADDRESS)
            raise Crowded(
                f"this address has {most} sessions here already (CALLTAG_NOTIFIER__MAX_SESSIONS_PER_ADDRESS)",
                errors.too_many_sessions(most),
            )
        deadline_ms = self.clock_ms() + self.limits.timeout_ms + self.limits.max_interval_ms
        self.addresses.begin(client_id, address, deadline_ms)

    @contextmanager
    def arrival(self, client_id: str, address: str) -> Iterator[None]:
        """Inside, a session comes to be held here, if it is not already. Raises Crowded."""
        if client_id in self.local.sessions:
            yield
        else:
            self._check_sessions()
            self._arriving += 1
            try:
                yield
            finally:
                self._arriving -= 1
        if self.limits.max_sessions_per_address and address:
            self.addresses.put(client_id, address)

    def _check_sessions(self) -> None:
        most = self.limits.max_sessions
        if len(self.local.sessions) + self._arriving >= most:
            self.metrics.limited(Limit.SESSIONS)
            raise Crowded(
                f"{most} sessions are held here already (CALLTAG_NOTIFIER__MAX_SESSIONS); try again in a moment",
                errors.too_many_sessions(most),
            )

    def release(self, client_id: str) -> None:
        """The session is not here (any more)."""
        self.addresses.release(client_id)

    def sweep(self) -> None:
        """Forget the sessions that were begun here and never connected."""
        self.addresses.sweep(self.clock_ms(), self.local.sessions)
