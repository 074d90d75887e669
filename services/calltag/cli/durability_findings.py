"""Checks of `calltag doctor` on failover: the mode of Redis, its replicas, and lost commits."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import cast

from calltag.cli.finding import Finding, warn, wrong
from calltag.core.bus.ports import Partition
from calltag.core.settings import Settings
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys

Info = Mapping[str, object]


def mode_finding(info: Info, mode: str) -> Finding | None:
    """Return a fault if Redis is a replica, or does not match CALLTAG_REDIS__MODE; else None."""
    found, role = str(info.get("redis_mode", "standalone")), info.get("role")
    if found != "standalone" and mode == "single":
        return wrong(f"Redis is run as {found}; set CALLTAG_REDIS__MODE={found}")
    if role == "slave":
        return wrong("CALLTAG_REDIS__URL leads to a replica: nothing can be written there")
    return None


def replica_findings(infos: Mapping[str, Info], wanted: int) -> Iterator[Finding]:
    """Yield findings on masters with too few replicas for commits, and on commits that wait for none."""
    counts = {address: cast("int", info.get("connected_slaves", 0)) for address, info in infos.items()}
    for address, count in counts.items():
        if count < wanted:
            yield wrong(
                f"the master{f' {address}' if address else ''} has {count} replicas, and CALLTAG_REDIS__WAIT_REPLICAS "
                f"wants {wanted}: operations are accepted, and none takes effect",
            )
    if not wanted and any(counts.values()):
        yield warn(
            "commits do not wait for replicas: a fail-over may lose the last of them (CALLTAG_REDIS__WAIT_REPLICAS)",
        )


async def loss_findings(client: RedisClient, settings: Settings) -> list[Finding]:
    """Return findings on commits that Redis has lost, as recorded by workers. Raises StoreUnavailable."""
    keys = Keys(settings.redis.key_prefix)
    pipeline = client.pipeline()
    for number in range(settings.partitions):
        pipeline.hgetall(keys.losses(Partition(number)))
    found = cast("list[dict[bytes, bytes]]", await client.run(pipeline))
    return [_loss(number, losses) for number, losses in enumerate(found) if losses]


def _loss(partition: int, losses: Mapping[bytes, bytes]) -> Finding:
    commits, lost_for_good = int(losses.get(b"commits", 0)), int(losses.get(b"lost_for_good", 0))
    at = datetime.fromtimestamp(int(losses.get(b"at_ms", 0)) / 1_000, UTC).isoformat(timespec="seconds")
    text = f"Redis lost {commits} commits of partition {partition} that it had confirmed, last noticed at {at}"
    if lost_for_good:
        return wrong(f"{text}; {lost_for_good} of them could not be applied again")
    return warn(f"{text}; their operations were applied again")
