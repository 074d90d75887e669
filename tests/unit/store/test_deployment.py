"""Addresses of clusters and Sentinels."""

import pytest

from calltag.core.settings import SettingsError, load_settings
from calltag.core.store.client import open_redis
from calltag.core.store.routing import Deployment, SentinelRouter, addresses


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://one/0", [("one", 6379)]),
        ("redis://user:p%40ss@one:7000,two,[::1]:7002/0", [("one", 7000), ("two", 6379), ("::1", 7002)]),
    ],
)
def test_addresses_of_a_url(url: str, found: list[tuple[str, int]]) -> None:
    assert addresses(url, 6379) == found


def test_an_address_without_a_host_is_none() -> None:
    with pytest.raises(ValueError, match="host"):
        addresses("redis://one,:7000", 6379)


async def test_what_a_url_says_besides_addresses_goes_to_the_master_not_to_sentinels() -> None:
    url = "rediss://user:pass@s1,s2:26380/3"
    client = open_redis(Deployment(url, "sentinel", "svc", None, "other"), deadline_s=3, max_connections=7)
    router = client.router
    assert isinstance(router, SentinelRouter)
    options = router._connector.options
    assert (options["username"], options["password"], options["db"]) == ("user", "pass", 3)
    assert {"host", "port"}.isdisjoint(options)
    told = router._sentinel.sentinels[1].connection_pool.connection_kwargs
    assert (told["host"], told["port"], told["username"], told["password"]) == ("s2", 26380, None, "other")
    await client.close()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"url": "redis://a,b"}, "MODE must say"),
        ({"url": "unix:///tmp/x", "mode": "cluster"}, "socket"),
        ({"url": "redis://a/3", "mode": "cluster"}, "database"),
        ({"url": "redis://a,b:x", "mode": "cluster"}, "not well formed"),
        ({"wait_replicas": 1, "wait_timeout_s": 1.0}, "WAIT_TIMEOUT_S"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        load_settings(redis=given)
