"""What `calltag doctor` says of Redis beyond one server."""

from pathlib import Path

import pytest
import redis

from calltag.core.broker.ports import Partition
from calltag.core.store.keys import Keys
from parts.command import calltag
from parts.redis_cluster import RedisCluster


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> RedisCluster:
    redis_cluster.clear()
    return redis_cluster


def doctor(folder: Path, url: str, **more: str) -> str:
    """What it says; there is no broker."""
    settings = {"CALLTAG_AMQP__URL": "amqp://127.0.0.1:1/", "CALLTAG_REDIS__URL": url, **more}
    return " ".join(calltag("doctor", cwd=folder, **settings).stdout.split())


def test_a_cluster_is_looked_at(tmp_path: Path, cluster: RedisCluster) -> None:
    told = doctor(tmp_path, cluster.url, CALLTAG_REDIS__MODE="cluster", CALLTAG_REDIS__WAIT_REPLICAS="2")
    assert told.count("has 1 replicas, and CALLTAG_REDIS__WAIT_REPLICAS wants 2") == 3
    key = Keys().losses(Partition(3))
    with redis.Redis(port=cluster.master_of(key)) as node:
        node.hset(key, mapping={"commits": 3, "lost_for_good": 2, "at_ms": 1_700_000_000_000})
    told = doctor(tmp_path, cluster.url, CALLTAG_REDIS__MODE="cluster")
    assert "commits do not wait for replicas" in told
    assert "bad Redis lost 3 commits of partition 3" in told
    assert "2 of them could not be applied again" in told


def test_a_wrong_mode_is_told(tmp_path: Path, cluster: RedisCluster, redis_url: str) -> None:
    one = f"redis://127.0.0.1:{cluster.masters()[0]}/0"
    assert "Redis is run as cluster; set CALLTAG_REDIS__MODE=cluster" in doctor(tmp_path, one)
    told = doctor(tmp_path, redis_url, CALLTAG_REDIS__MODE="cluster")
    assert "Redis is run as standalone; set CALLTAG_REDIS__MODE=single" in told
