"""Addresses of clusters and Sentinels."""

import asyncio
from typing import cast

import pytest
import redis.asyncio

from calltag.core.settings import SettingsError, load_settings
from calltag.core.store.deployment import ClusterClient, Deployment, SentinelClient, addresses, client_of
from calltag.core.store.ports import StoreUnavailable


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
    client = client_of(Deployment(url, "sentinel", "svc", None, "other"), deadline_s=3, max_connections=7)
    assert isinstance(client, SentinelClient)
    assert client.sentinel is not None
    pool = client.connection.connection_pool
    assert {name: pool.connection_kwargs[name] for name in ("username", "password", "db")} == {
        "username": "user", "password": "pass", "db": 3,
    }  # fmt: skip
    told = client.sentinel.sentinels[1].connection_pool.connection_kwargs
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


class Cluster:
    """One whose masters are known."""

    closed = False

    def get_default_node(self) -> str:
        return "a"

    async def aclose(self) -> None:
        self.closed = True


async def test_a_cluster_is_left_when_what_is_under_way_is_over() -> None:
    cluster, go_on = Cluster(), asyncio.Event()
    client = ClusterClient(cast("redis.asyncio.Redis", cluster), deadline_s=60)

    async def work() -> None:
        async with client.exchange():
            await go_on.wait()

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0.01)
    assert not cluster.closed
    with pytest.raises(StoreUnavailable):
        await work()
    go_on.set()
    await asyncio.gather(working, closing)
    assert cluster.closed
