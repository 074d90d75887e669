"""What every service stands on: a bus, a store, the directory, metrics and health."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from calltag.core.bus.amqp import AmqpSettings, open_amqp_bus
from calltag.core.bus.memory import MemoryBus
from calltag.core.bus.ports import Bus
from calltag.core.identity.authentication import Authenticator
from calltag.core.identity.cookies import CookieFlags
from calltag.core.identity.directory_file import DirectoryError, demo_directory, directory, read_directory
from calltag.core.identity.http_sessions import RedisHttpSessions
from calltag.core.identity.model import Directory
from calltag.core.identity.passwords import Passwords
from calltag.core.settings import Settings
from calltag.core.store.batching import ScriptBatcher
from calltag.core.store.client import RedisClient, redis_client
from calltag.core.store.embedded import EmbeddedStore, embedded_store
from calltag.core.store.keys import Keys
from calltag.core.store.marks import RedisMarks
from calltag.core.telemetry.internal_http import Health
from calltag.core.telemetry.metrics import Metrics

log = structlog.get_logger()
NO_USERS: Final = "there are no users; set CALLTAG_DIRECTORY__FILE (or CALLTAG_DIRECTORY__DEMO=true to try it)"


@dataclass(frozen=True, slots=True)
class Backends:
    """The parts that a service is built on."""

    settings: Settings
    bus: Bus
    client: RedisClient
    keys: Keys
    directory: Directory
    metrics: Metrics
    health: Health
    batcher: ScriptBatcher
    embedded: EmbeddedStore | None = None

    def authenticator(self) -> Authenticator:
        """An authenticator over the directory, with sessions in the store."""
        session = self.settings.session
        sessions = RedisHttpSessions(
            self.client, self.batcher, self.keys.prefix, idle_s=session.idle_s, lifetime_s=session.lifetime_s
        )
        return Authenticator(self.directory, Passwords(self.directory), sessions, cookies=self.cookies())

    def cookies(self) -> CookieFlags:
        """How cookies are set."""
        return CookieFlags(self.settings.session.secure_cookies, self.settings.session.same_site)


def amqp_settings(settings: Settings) -> AmqpSettings:
    """The settings of the bus on RabbitMQ."""
    amqp = settings.amqp
    return AmqpSettings(
        url=amqp.url.get_secret_value(),
        prefix=amqp.prefix,
        partitions=settings.partitions,
        heartbeat_s=amqp.heartbeat_s,
        publish_deadline_s=amqp.publish_deadline_s,
        queue_max_length=amqp.queue_max_length,
        delivery_limit=amqp.delivery_limit,
        parking_max_length=amqp.parking_max_length,
        inbox_expiry_s=amqp.inbox_expiry_s,
        inbox_max_bytes=amqp.inbox_max_bytes,
    )


def load_directory(settings: Settings) -> Directory:
    """The directory that the settings name. Raises DirectoryError."""
    chosen = settings.directory
    if chosen.demo and chosen.file is not None:
        raise DirectoryError("CALLTAG_DIRECTORY__FILE and CALLTAG_DIRECTORY__DEMO are both set; choose one")
    if chosen.demo:
        return demo_directory()
    return read_directory(chosen.file) if chosen.file is not None else directory(())


async def _forget_marks(client: RedisClient, settings: Settings) -> None:
    """What was parked in a process before is gone with its bus: nobody could replay or drop it."""
    forgotten = await RedisMarks(client, Keys(settings.redis.key_prefix), settings.partitions).forget()
    if forgotten:
        log.warning("marks_forgotten", count=forgotten, reason="what an embedded bus parks is gone with it")


@asynccontextmanager
async def backends(service: str, settings: Settings, *, embedded: bool = False) -> AsyncIterator[Backends]:
    """Open bus and store; neither has to be reachable yet. `embedded` takes those inside this process.

    Raises DirectoryError, DataFolderInUse, DataFolderUnusable.
    """
    users = load_directory(settings)
    async with AsyncExitStack() as stack:
        bus: Bus
        store: EmbeddedStore | None
        if embedded:
            folder = settings.embedded.folder
            store = await stack.enter_async_context(embedded_store(folder, deadline_s=settings.redis.deadline_s))
            if store.kept_in is None:
                log.warning("embedded_store_keeps_nothing", reason=store.reason)
            else:
                log.info("embedded_store", kept_in=str(store.kept_in))
                await _forget_marks(store.client, settings)
            bus, client = (
                MemoryBus(
                    settings.partitions,
                    queue_limit=settings.amqp.queue_max_length,
                    parking_limit=settings.amqp.parking_max_length,
                ),
                store.client,
            )
        else:
            store = None
            client = redis_client(
                settings.redis.url.get_secret_value(),
                deadline_s=settings.redis.deadline_s,
                max_connections=settings.redis.max_connections,
            )
            stack.push_async_callback(client.close)
            bus = await stack.enter_async_context(open_amqp_bus(amqp_settings(settings)))
        health = Health(service, {"bus": bus.connected, "store": client.ping})
        keys = Keys(settings.redis.key_prefix)
        yield Backends(settings, bus, client, keys, users, Metrics(), health, ScriptBatcher(client), store)
