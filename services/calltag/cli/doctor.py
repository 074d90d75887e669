"""Checks of `calltag doctor` on RabbitMQ, Redis and the directory of users. They change nothing."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Literal
from uuid import uuid4

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from calltag.cli.doctor_processes import address_findings, process_findings, tls_findings
from calltag.cli.output import Finding, bad, ok, version_finding, warn
from calltag.cli.sessions import sessions
from calltag.core.backends import NO_USERS, amqp_settings, load_directory, open_client
from calltag.core.broker.ports import BrokerUnavailable, NodeId, Partition, hash_tag
from calltag.core.broker.rabbitmq.connection import connect
from calltag.core.broker.rabbitmq.inspector import Routing, probed
from calltag.core.broker.rabbitmq.topology import Topology
from calltag.core.identity.directory import DirectoryError
from calltag.core.settings import Settings, unknown_settings
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.keys import Keys
from calltag.core.store.ports import InstallationMismatch, StoreError, StoreUnavailable
from calltag.core.store.workers import read_installation

_RABBITMQ_DEADLINE_S: Final = 9.0
_MOST_SESSIONS: Final = 2_000
"""Maximum sessions to read: all notifiers, or nearly all, hold some of them."""
_LOOK_DEADLINE_S: Final = 9.0
_CLOSE_DEADLINE_S: Final = 1.0
_OLDEST_RABBITMQ: Final = (3, 10)
_RIGHTS: Final = "which services have to (rabbitmqctl set_permissions; docs/operating.md has the rights)"
_NOT_COMPARED: Final = (
    "and were not compared with the settings, as the user in CALLTAG_AMQP__URL may not declare them (calltag topology "
    "apply needs that, the services do not)"
)
_NO_ROUTE: Final = {
    Routing.UNBOUND: "partition queues have lost their bindings: no operation gets there; run: calltag topology apply",
    Routing.FULL: "partition queues are full (CALLTAG_AMQP__QUEUE_MAX_LENGTH), or have no leader",
    Routing.REFUSED: f"partitions may not be published to by the user in CALLTAG_AMQP__URL, {_RIGHTS}",
}
State = Literal["there", "missing", "other", "refused"]
Look = Callable[[AbstractChannel], Awaitable[object]]


async def inbox_findings(settings: Settings) -> list[Finding]:
    """Return the faults of the inboxes of notifiers that hold sessions. Other checks report unreachable servers."""
    try:
        async with asyncio.timeout(_RABBITMQ_DEADLINE_S):
            nodes = await _holders(settings)
            return await _inbox_findings(settings, nodes) if nodes else []
    except (StoreError, BrokerUnavailable, AMQPError, OSError, RuntimeError, TimeoutError):
        return []


async def _holders(settings: Settings) -> list[NodeId]:
    found: set[NodeId] = set()
    async with sessions(settings) as known:
        seen = 0
        async for each in known.all(None):
            found.add(each.holder)
            seen += 1
            if seen == _MOST_SESSIONS:
                break
    return sorted(found)


async def _inbox_findings(settings: Settings, nodes: list[NodeId]) -> list[Finding]:
    broker = amqp_settings(settings)
    connection = await connect(broker, "doctor")
    try:
        cut_off = [node for node in nodes if await _is_cut_off(connection, Topology(broker), node)]
    finally:
        await connection.close()
    if not cut_off:
        return [ok(f"workers' messages reach the inboxes of all {len(nodes)} notifiers that hold sessions")]
    return [
        bad(
            f"the inbox of {node} has lost its binding: its sessions get events late; restart it, or restart its "
            "connections (rabbitmqctl close_connection)"
        )
        for node in cut_off
    ]


async def _is_cut_off(connection: AbstractConnection, topology: Topology, node: NodeId) -> bool:
    """Return whether the node runs but receives nothing. Without an inbox and a consumer, it does not run."""
    channel = await connection.channel()
    try:
        queue = await channel.declare_queue(topology.inbox_queue(node), passive=True)
    except ChannelNotFoundEntity:
        return False
    await channel.close()
    if not queue.declaration_result.consumer_count:
        return False
    return await probed(connection, topology.events, node) is Routing.UNBOUND


async def broker_findings(settings: Settings) -> list[Finding]:
    """Return findings on version, exchanges and queues, within 15 seconds."""
    broker = amqp_settings(settings)
    try:
        connection = await connect(broker, "doctor")
    except BrokerUnavailable as error:
        return [bad(str(error))]
    findings = [version_finding("RabbitMQ", _version(connection), _OLDEST_RABBITMQ)]
    try:
        async with asyncio.timeout(_LOOK_DEADLINE_S):
            findings += await _topology_findings(connection, Topology(broker))
    except TimeoutError:
        findings.append(bad(f"RabbitMQ did not show its queues within {_LOOK_DEADLINE_S:g} s"))
    except (AMQPError, OSError, RuntimeError) as error:
        findings.append(bad(f"the connection to RabbitMQ broke: {type(error).__name__}: {error}"))
    except asyncio.CancelledError:
        # aiormq cancels tasks that wait on a closing channel.
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        findings.append(bad("the connection to RabbitMQ broke"))
    finally:
        with suppress(AMQPError, OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(_CLOSE_DEADLINE_S):
                await connection.close()
    return findings


def _version(connection: AbstractConnection) -> str:
    properties = getattr(getattr(connection.transport, "connection", None), "server_properties", {})
    known = dict(properties or {}).get("version", "unknown")
    return known.decode() if isinstance(known, bytes) else str(known)


async def _topology_findings(connection: AbstractConnection, topology: Topology) -> list[Finding]:
    exchanges = [await _exchange(connection, topology, name) for name in topology.exchanges]
    parking = await _state(connection, lambda channel: channel.get_queue(topology.parking), topology.declare_parking)
    partitions = [
        await _partition(connection, topology, Partition(number)) for number in range(topology.settings.partitions)
    ]
    return [
        *_findings(exchanges, "exchanges"),
        *_findings([parking], "parking queues"),
        *_findings(partitions, "partition queues"),
        *await _routes(connection, topology, partitions),
        *await _inbox(connection, topology),
    ]


async def _routes(connection: AbstractConnection, topology: Topology, partitions: Sequence[State]) -> list[Finding]:
    """Return findings on routing: a binding may be lost although the queue exists."""
    if "missing" in partitions:
        return []
    keys = [hash_tag(Partition(number)) for number in range(len(partitions))]
    found = Counter([await probed(connection, topology.operations, key) for key in keys])
    count = len(keys)
    findings = [bad(f"{found[route]} of {count} {text}") for route, text in _NO_ROUTE.items() if found[route]]
    return findings or [ok(f"published operations reach all {count} partition queues")]


async def _inbox(connection: AbstractConnection, topology: Topology) -> list[Finding]:
    """Return a finding if services may not have inboxes; declares one temporarily."""
    node = NodeId(f"doctor-{uuid4().hex[:8]}")
    channel = await connection.channel()
    try:
        await channel.get_exchange(topology.events)
        await topology.declare_exchange(channel, topology.events)
        queue = await channel.declare_queue(topology.inbox_queue(node), exclusive=True, auto_delete=True)
        await queue.bind(topology.events, routing_key=node)
        route = await probed(connection, topology.events, node)
        await queue.delete()
        await channel.close()
    except (ChannelNotFoundEntity, ChannelPreconditionFailed):
        # Another finding reports that the exchange is missing or differs.
        return []
    except ChannelAccessRefused:
        route = Routing.REFUSED
    if route is Routing.REFUSED:
        return [bad(f"the user in CALLTAG_AMQP__URL may not declare, bind and send to {topology.events}.*, {_RIGHTS}")]
    return []


async def _exchange(connection: AbstractConnection, topology: Topology, name: str) -> State:
    return await _state(
        connection,
        lambda channel: channel.get_exchange(name),
        lambda channel: topology.declare_exchange(channel, name),
    )


async def _partition(connection: AbstractConnection, topology: Topology, partition: Partition) -> State:
    return await _state(
        connection,
        lambda channel: channel.get_queue(topology.partition_queue(partition)),
        lambda channel: topology.declare_partition(channel, partition),
    )


async def _state(connection: AbstractConnection, look: Look, declare: Look) -> State:
    """Return the state of an exchange or queue. It is declared only if it exists, so nothing is changed."""
    channel = await connection.channel()
    try:
        await look(channel)
        await declare(channel)
    except ChannelPreconditionFailed:
        return "other"
    except ChannelAccessRefused:
        return "refused"
    except ChannelNotFoundEntity:
        return "missing"
    await channel.close()
    return "there"


def _findings(states: list[State], what: str) -> list[Finding]:
    """Return the faults, or one finding that there are none."""
    count = len(states)
    mistaken: dict[State, str] = {
        "missing": f"{what} are missing; run: calltag topology apply",
        "other": f"{what} differ from the CALLTAG_AMQP__ settings",
    }
    found = Counter(states)
    findings = [bad(f"{found[state]} of {count} {text}") for state, text in mistaken.items() if found[state]]
    if found["refused"]:
        findings.append(ok(f"{found['refused']} of {count} {what} exist, {_NOT_COMPARED}"))
    return findings or [ok(f"all {count} {what} exist, as configured")]


Info = Mapping[str, str]
_REDIS_DEADLINE_S: Final = 5.0
_OLDEST_REDIS: Final = (7, 0)


def mode_finding(info: Info, mode: str) -> Finding | None:
    """Return a fault if Redis is a replica, or does not match CALLTAG_REDIS__MODE; else None."""
    found, role = info.get("redis_mode", "standalone"), info.get("role")
    if found != "standalone" and mode == "single":
        return bad(f"Redis is run as {found}; set CALLTAG_REDIS__MODE={found}")
    if role == "slave":
        return bad("CALLTAG_REDIS__URL leads to a replica: nothing can be written there")
    return None


def replica_findings(infos: Mapping[str, Info], wanted: int) -> Iterator[Finding]:
    """Yield findings on masters with too few replicas for commits, and on commits that wait for none."""
    counts = {address: int(info.get("connected_slaves", 0)) for address, info in infos.items()}
    for address, count in counts.items():
        if count < wanted:
            yield bad(
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
        return bad(f"{text}; {lost_for_good} of them could not be applied again")
    return warn(f"{text}; their operations were applied again")


async def store_findings(settings: Settings) -> list[Finding]:
    """Return findings on version, eviction, persistence, replicas, lost commits and the installation."""
    client = open_client(settings, deadline_s=_REDIS_DEADLINE_S)
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
        return [bad(_explained(error))]
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
    yield version_finding(name, info.get("valkey_version") or info.get("redis_version", ""), _OLDEST_REDIS)


def _memory(info: Info) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy", "noeviction")
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        yield bad(
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
        return bad(str(error))
    return ok(f"the installation has {settings.partitions} partitions, as configured")


async def examine(settings: Settings) -> list[Finding]:
    """Check RabbitMQ, Redis, the running processes, TLS files, the public address and the directory of users."""
    looks = (
        broker_findings(settings),
        inbox_findings(settings),
        store_findings(settings),
        process_findings(settings),
    )
    found = [each for findings in await asyncio.gather(*looks) for each in findings]
    own = (*tls_findings(settings), *address_findings(settings), _directory(settings))
    return [*map(warn, unknown_settings()), *found, *own]


def _directory(settings: Settings) -> Finding:
    try:
        users = load_directory(settings).users
    except DirectoryError as error:
        return bad(str(error))
    if not users and settings.oidc.unlisted_users:
        return ok("there is no directory: users are those of the OpenID provider")
    if not users:
        return bad(NO_USERS)
    if settings.directory.demo:
        return warn(
            "the directory is the demo contact centre, whose passwords are public; "
            "CALLTAG_DIRECTORY__FILE names another one"
        )
    return ok(f"the directory has {len(users)} users")
