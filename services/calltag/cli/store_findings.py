"""Checks of `calltag doctor` on Redis. They change nothing."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from calltag.cli.output import Finding, ok, version_finding, warn, wrong
from calltag.core.backends import open_client
from calltag.core.broker.ports import Partition
from calltag.core.settings import Settings
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.keys import Keys
from calltag.core.store.ports import InstallationMismatch, StoreUnavailable
from calltag.core.store.workers import read_installation

Info = Mapping[str, str]
_DEADLINE_S: Final = 5.0
_OLDEST: Final = (7, 0)


def mode_finding(info: Info, mode: str) -> Finding | None:
    """Return a fault if Redis is a replica, or does not match CALLTAG_REDIS__MODE; else None."""
    found, role = info.get("redis_mode", "standalone"), info.get("role")
    if found != "standalone" and mode == "single":
        return wrong(f"Redis is run as {found}; set CALLTAG_REDIS__MODE={found}")
    if role == "slave":
        return wrong("CALLTAG_REDIS__URL leads to a replica: nothing can be written there")
    return None


def replica_findings(infos: Mapping[str, Info], wanted: int) -> Iterator[Finding]:
    """Yield findings on masters with too few replicas for commits, and on commits that wait for none."""
    counts = {address: int(info.get("connected_slaves", 0)) for address, info in infos.items()}
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
    names = [keys.losses(Partition(number)) for number in range(settings.partitions)]
    found = map(fields_of, await client.execute_all(("HGETALL", name) for name in names))
    return [_loss(number, losses) for number, losses in enumerate(found) if losses]


def _loss(partition: int, losses: Mapping[bytes, bytes]) -> Finding:
    commits, lost_for_good = int(losses.get(b"commits", 0)), int(losses.get(b"lost_for_good", 0))
    at = datetime.fromtimestamp(int(losses.get(b"at_ms", 0)) / 1_000, UTC).isoformat(timespec="seconds")
    text = f"Redis lost {commits} commits of partition {partition} that it had confirmed, last noticed at {at}"
    if lost_for_good:
        return wrong(f"{text}; {lost_for_good} of them could not be applied again")
    return warn(f"{text}; their operations were applied again")


async def store_findings(settings: Settings) -> list[Finding]:
    """Return findings on version, eviction, persistence, replicas, lost commits and the installation."""
    client = open_client(settings, deadline_s=_DEADLINE_S)
    try:
        infos = await _infos(client)
        if infos is None:
            servers = [_unseen(settings)]
        else:
            info = next(iter(infos.values()))
            mistaken = mode_finding(info, settings.redis.mode)
            if mistaken is not None:
                return [*_server(info), mistaken]
            servers = [
                *_server(info),
                *_distinct(finding for each in infos.values() for finding in (*_memory(each), *_persistence(each))),
                *replica_findings(infos, settings.redis.wait_replicas),
            ]
        return [*servers, await _installation(client, settings), *await loss_findings(client, settings)]
    except StoreUnavailable as error:
        return [wrong(_explained(error))]
    finally:
        await client.close()


async def _infos(client: RedisClient) -> Mapping[str, Info] | None:
    """Return INFO of the servers; None if the user has no right to it. Raises StoreUnavailable."""
    try:
        return await client.infos()
    except StoreUnavailable as error:
        if isinstance(error.__cause__, NoPermissionError):
            return None
        raise


def _unseen(settings: Settings) -> Finding:
    """Return notes on checks that need a right which the services do not need."""
    text = (
        "Redis is reachable; its version, memory policy and persistence are not looked at, as the user in "
        "CALLTAG_REDIS__URL may not use INFO (the services do not need it)"
    )
    wanted = settings.redis.wait_replicas
    return warn(f"{text}; nor is whether it has the {wanted} replicas that commits wait for") if wanted else ok(text)


def _distinct(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings without repetition, which several servers may have in common."""
    return list(dict.fromkeys(findings))


def _explained(error: StoreUnavailable) -> str:
    match error.__cause__:
        case AuthenticationError() as cause:
            return f"Redis refuses the user or password in CALLTAG_REDIS__URL ({cause})"
        case ResponseError() as cause if "cluster support disabled" in str(cause):
            return "Redis is run as standalone; set CALLTAG_REDIS__MODE=single (or sentinel)"
        case NoPermissionError() as cause:
            return f"Redis does not let the user in CALLTAG_REDIS__URL do what calltag does ({cause})"
        case _:
            return f"{error}; CALLTAG_REDIS__URL says where it is"


def _server(info: Info) -> Iterator[Finding]:
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    yield version_finding(name, info.get("valkey_version") or info.get("redis_version", ""), _OLDEST)


def _memory(info: Info) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy", "noeviction")
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        yield wrong(
            f"Redis evicts data when its memory is full (maxmemory-policy is {policy}); set it to noeviction, "
            "in its configuration and with: redis-cli CONFIG SET maxmemory-policy noeviction",
        )


def _persistence(info: Info) -> Iterator[Finding]:
    if info.get("aof_enabled") == "0":
        yield warn(
            "Redis has appendonly off: changes since its last snapshot are lost on a restart (appendonly yes keeps it)",
        )


async def _installation(client: RedisClient, settings: Settings) -> Finding:
    """Compare the partitions of the installation with the settings. Raises StoreUnavailable."""
    installation = await read_installation(client, Keys(settings.redis.key_prefix))
    if installation is None:
        text = f"nothing was ever started on this store; the first start fixes {settings.partitions} partitions"
        return ok(text)
    try:
        installation.check(settings.partitions)
    except InstallationMismatch as error:
        return wrong(str(error))
    return ok(f"the installation has {settings.partitions} partitions, as configured")
