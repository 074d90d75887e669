"""Redis of each mode, as the settings name it."""

import pytest

from parts.redis_cluster import RedisCluster
from parts.redis_sentinel import SERVICE, RedisSentinel


def redis_of(request: pytest.FixtureRequest, mode: str) -> dict[str, str]:
    """An empty Redis of the mode (`single`, `sentinel`, `cluster`): its settings."""
    if mode == "single":
        return {"url": request.getfixturevalue("redis_url")}
    server: RedisSentinel | RedisCluster = request.getfixturevalue(f"redis_{mode}")
    server.clear()
    return {"url": server.url, "mode": mode, **({"sentinel_service": SERVICE} if mode == "sentinel" else {})}


def redis_variables(settings: dict[str, str]) -> dict[str, str]:
    """The same as variables of the environment."""
    return {f"CALLTAG_REDIS__{name.upper()}": value for name, value in settings.items()}
