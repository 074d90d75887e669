"""How fast users and addresses may send."""

import pytest

from calltag.core.process.limits import Buckets, RateLimit
from calltag.core.telemetry.metrics import Metrics
from calltag.gateway.errors import TooManyOperations
from calltag.gateway.metrics import GatewayMetrics
from calltag.gateway.rate_limits import RateLimits


def rates(clock: list[int], users: RateLimit, addresses: RateLimit, metrics: Metrics) -> RateLimits:
    return RateLimits(Buckets(users, 2), Buckets(addresses, 2), GatewayMetrics(metrics), lambda: clock[0])


def test_a_burst_and_then_so_many_a_second() -> None:
    clock, metrics = [0], Metrics()
    limited = rates(clock, RateLimit(2, 3), RateLimit(), metrics)
    for _ in range(3):
        limited.check("alice", "10.0.0.1")
    with pytest.raises(TooManyOperations, match="one user") as refused:
        limited.check("alice", "10.0.0.1")
    assert (refused.value.http_status, refused.value.headers["Retry-After"]) == (429, "1")
    limited.check("bob", "10.0.0.1")
    clock[0] = 500
    limited.check("alice", "10.0.0.1")
    with pytest.raises(TooManyOperations):
        limited.check("alice", "10.0.0.1")
    assert b'calltag_requests_limited_total{limit="user_operations_per_s"} 2.0' in metrics.exposition()


def test_retry_after_says_when_the_next_one_passes() -> None:
    limited = rates([0], RateLimit(), RateLimit(0.1, 1), Metrics())
    limited.check("alice", "10.0.0.1")
    with pytest.raises(TooManyOperations, match="this address") as refused:
        limited.check("bob", "10.0.0.1")
    assert refused.value.headers["Retry-After"] == "10"
    limited.check("bob", "10.0.0.2")


def test_no_more_names_are_known_than_may_be() -> None:
    buckets = Buckets(RateLimit(1, 1), 2)
    for name in ("a", "b", "a", "c"):
        buckets.wait_s(name, 0)
    assert len(buckets) == 2
    # The one silent longest was forgotten, and not the one that came first.
    assert buckets.wait_s("a", 0)
    assert not buckets.wait_s("b", 0)


def test_without_a_limit_nothing_is_counted() -> None:
    buckets = Buckets(RateLimit(), 2)
    assert [buckets.wait_s("a", 0) for _ in range(100)] == [0.0] * 100
    assert len(buckets) == 0
