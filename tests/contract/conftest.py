"""The stores that the contract tests run on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from calltag.core.store.client import RedisClient, open_redis, redis_client
from calltag.core.store.embedded import embedded_store
from calltag.core.store.routing import Deployment
from parts.redis_cluster import RedisCluster


@pytest.fixture(params=["redis", "cluster", "valkey", "fakeredis"])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RedisClient]:
    if request.param == "redis":
        connected = redis_client(request.getfixturevalue("redis_url"), deadline_s=20)
        yield connected
        await connected.close()
        return
    if request.param == "cluster":
        cluster: RedisCluster = request.getfixturevalue("redis_cluster")
        cluster.clear()
        connected = open_redis(Deployment(cluster.url, "cluster"), deadline_s=5)
        yield connected
        await connected.close()
        return
    async with embedded_store(tmp_path / "data" if request.param == "valkey" else None, deadline_s=20) as store:
        assert bool(store.kept_in) == (request.param == "valkey"), store.reason
        yield store.client
