"""calltag's notifier as a process of its own, and the worker's way to give it events."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from argon2 import PasswordHasher

from bench.servers.bayeux import PUBLIC_URL, TIMEOUT_S, Group, device_of, event, name_of, number_of
from calltag.core.backends import Backends, amqp_settings, backends
from calltag.core.broker.rabbitmq import apply_topology
from calltag.core.contracts.operations import EVENT
from calltag.core.http.scope import COMETD_PATHS
from calltag.core.identity.authentication import COOKIE
from calltag.core.identity.http_sessions import Login, RedisHttpSessions
from calltag.core.settings import load_settings
from calltag.core.store.event_log import RedisEventLog
from calltag.core.store.watches import RedisWatches
from calltag.core.store.workers import RedisCallIndex
from calltag.notifier.event_views import CALLS_CHANNEL
from calltag.worker.event_publisher import EventPublisher, Publication
from calltag.worker.node_sender import NodeSender
from parts.command import UNMEASURED
from parts.haproxy import HaProxy, Upstream
from parts.ports import free_port
from parts.processes import Program
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import calltag_program, is_ready

_MANY: Final = "100000"
SETTINGS: Final = {
    "CALLTAG_DIRECTORY__DEMO": "",
    "CALLTAG_PUBLIC_URL": PUBLIC_URL,
    "CALLTAG_PARTITIONS": "1",
    "CALLTAG_LOG__LEVEL": "warning",
    "CALLTAG_NOTIFIER__TIMEOUT_S": str(TIMEOUT_S),
    # Sessions begin all at once here, those of the first rows are one user's.
    "CALLTAG_NOTIFIER__MAX_SESSIONS_PER_USER": _MANY,
    "CALLTAG_NOTIFIER__MAX_SESSIONS": _MANY,
    "CALLTAG_NOTIFIER__HANDSHAKES_PER_S": _MANY,
    "CALLTAG_NOTIFIER__HANDSHAKE_BURST": _MANY,
    "CALLTAG_NOTIFIER__HANDSHAKES_PER_S_PER_ADDRESS": "0",
    # All connections come from one address.
    "CALLTAG_HTTP__MAX_CONNECTIONS_PER_ADDRESS": _MANY,
    # Many sessions at once wait long for their turn to go on elsewhere; a session is not to end meanwhile.
    "CALLTAG_NOTIFIER__MAX_INTERVAL_S": "120",
    # How long a busy machine takes proves nothing.
    "CALLTAG_REDIS__DEADLINE_S": "10",
    "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "10",
    **UNMEASURED,
}
_CALLS: Final = 500
_runs: Final = itertools.count()


class Notifier:
    """Implements BayeuxServer. Every user has logged in before, and shows the session's cookie."""

    def __init__(
        self,
        port: int,
        program: Program,
        outgoing: EventPublisher,
        cookies: list[str],
        start_another: Callable[[], "Program"],
    ) -> None:
        self.port = port
        self._start_another = start_another
        self.path = COMETD_PATHS[0]
        self._program = program
        self._outgoing = outgoing
        self._cookies = cookies
        self._versions = itertools.count(2)

    @property
    def pid(self) -> int:
        return self._program.pid

    @property
    def pids(self) -> Sequence[int]:
        return [self.pid]

    def channel_of(self, user: int) -> str:  # noqa: ARG002 - the interface's
        return CALLS_CHANNEL

    def cookie_of(self, user: int) -> str:
        return f"{COOKIE}={self._cookies[user]}"

    async def publish(self, first: int, group: Group) -> None:
        """One batch of the worker's: into the streams, and one message to the node."""
        events = [
            event(number, users, f"01RCC3N118B1V0SL8O7GK2LAES{number % _CALLS:06d}", next(self._versions))
            for number, users in enumerate(group, first)
        ]
        await self._outgoing.send(Publication([], [(each, EVENT.encode(each)) for each in events], []))

    async def collect(self) -> None:
        """Nothing: what is not used is let go at once."""

    @asynccontextmanager
    async def behind_a_front(self, folder: Path, store: RedisServer, balance: str) -> AsyncIterator["Front"]:
        """Three notifiers of the installation, this one among them, behind HAProxy."""
        others = [await asyncio.to_thread(self._start_another) for _ in range(2)]
        upstreams = {f"notifier-{number}": _upstream(each) for number, each in enumerate([self._program, *others])}
        front = HaProxy(folder, COMETD_PATHS, {}, upstreams, balance=balance)
        try:
            await asyncio.to_thread(front.start)
            yield Front(self, front.port, [self.pid, *(each.pid for each in others), store.process.pid])
        finally:
            front.process.kill()
            for each in others:
                each.kill()

    @asynccontextmanager
    async def another(self) -> AsyncIterator[tuple[int, int]]:
        """A second notifier of the same installation: its port, and its process id."""
        program = await asyncio.to_thread(self._start_another)
        try:
            yield int(program.environment["CALLTAG_NOTIFIER__PORT"]), program.pid
        finally:
            program.kill()

    def die(self) -> None:
        """As if its node were gone."""
        self._program.kill()


class Front:
    """Implements BayeuxServer: three notifiers behind a front; their CPU and that of Redis count."""

    def __init__(self, notifier: Notifier, port: int, pids: Sequence[int]) -> None:
        self.port, self.pids, self.pid, self.path = port, pids, notifier.pid, notifier.path
        self.channel_of, self.cookie_of = notifier.channel_of, notifier.cookie_of
        self.publish, self.collect = notifier.publish, notifier.collect


def _upstream(program: Program) -> Upstream:
    environment = program.environment
    return Upstream(int(environment["CALLTAG_NOTIFIER__PORT"]), int(environment["CALLTAG_INTERNAL__PORT"]))


@asynccontextmanager
async def notifier(folder: Path, broker: RabbitMq, store: RedisServer, users: int) -> AsyncIterator[Notifier]:
    """A notifier for so many users, with an empty store."""
    store.clear()
    here = folder / f"notifier-{next(_runs)}"
    here.mkdir()
    centre = here / "directory.toml"
    centre.write_text(_directory(users))
    prefix = here.name
    environment = SETTINGS | {
        "CALLTAG_DIRECTORY__FILE": str(centre),
        "CALLTAG_AMQP__URL": broker.url,
        "CALLTAG_AMQP__PREFIX": prefix,
        "CALLTAG_REDIS__URL": store.url,
    }
    settings = load_settings(
        partitions=1,
        amqp={"url": broker.url, "prefix": prefix, "publish_deadline_s": 10},
        redis={"url": store.url, "deadline_s": 10},
        directory={"file": centre},
    )
    await apply_topology(amqp_settings(settings))
    program = await asyncio.to_thread(_started, here / "first", environment)
    try:
        async with backends("bench", settings) as made:
            yield Notifier(
                int(program.environment["CALLTAG_NOTIFIER__PORT"]), program, _outgoing(made), await _cookies(made),
                lambda: _started(here / f"another-{next(_runs)}", environment),
            )  # fmt: skip
    finally:
        program.kill()


def _started(folder: Path, environment: Mapping[str, str]) -> Program:
    internal = free_port()
    ports = {"CALLTAG_NOTIFIER__PORT": str(free_port()), "CALLTAG_INTERNAL__PORT": str(internal)}
    program = calltag_program(folder, {**environment, **ports}, "notifier")
    program.start(lambda: is_ready(internal))
    return program


def _directory(users: int) -> str:
    """Everybody has the same password: to hash one for each would take minutes, and nobody logs in with it."""
    password = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("bench")
    return "\n".join(
        f'[[users]]\nid = "{name_of(user)}"\npassword_hash = "{password}"\nfeatures = ["api-voice"]\n'
        f'[[users.devices]]\nid = "{device_of(user)}"\nnumber = "{number_of(user)}"\n'
        for user in range(users)
    )


def _outgoing(made: Backends) -> EventPublisher:
    client, batcher, keys = made.client, made.batcher, made.keys
    streams, watches = RedisEventLog(client, batcher, keys), RedisWatches(client, batcher, keys)
    return EventPublisher(NodeSender(made.broker, streams), RedisCallIndex(client, keys), streams, watches)


async def _cookies(made: Backends) -> list[str]:
    """A login of each user, as the gateway keeps it once the password was checked."""
    sessions = RedisHttpSessions(made.client, made.batcher, made.keys.prefix)
    return [(await sessions.create(Login(user))).token for user in made.directory.users.values()]
