"""Backends of a service: broker, store, directory, metrics and health."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import structlog

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Broker
from calltag.core.broker.rabbitmq import RabbitMqSettings, open_rabbitmq
from calltag.core.broker.rabbitmq.metrics import BrokerMetrics
from calltag.core.identity.authentication import Authenticator
from calltag.core.identity.directory import Directory, DirectoryError, demo_directory, directory, read_directory
from calltag.core.identity.http_sessions import CookieFlags, RedisHttpSessions
from calltag.core.identity.login_attempts import AttemptLimits, By, RedisLoginAttempts
from calltag.core.identity.passwords import Passwords
from calltag.core.process.instance import instance_name
from calltag.core.process.tls import ClientTls, OwnCertificate, ServerTls
from calltag.core.settings import Settings
from calltag.core.settings.root import variable
from calltag.core.settings.sections import ClientTlsSection, Tls
from calltag.core.store.calls import RedisCallBlocks
from calltag.core.store.client import RedisClient, open_redis
from calltag.core.store.embedded import EmbeddedStore, embedded_store
from calltag.core.store.keys import Keys
from calltag.core.store.routing import Deployment
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.telemetry.internal_http import Health
from calltag.core.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from calltag.core.identity.claimed_users import TokenLogins

log = structlog.get_logger()
_INBOX_AHEAD_BYTES: Final = 33_554_432
"""Prefetch of a node's inbox, at the maximum size of messages, that of a batch."""
NO_USERS: Final = "there are no users; set CALLTAG_DIRECTORY__FILE (or CALLTAG_DIRECTORY__DEMO=true to try it)"


class LoginMetrics:
    """Implements AttemptObserver."""

    def __init__(self, metrics: Metrics) -> None:
        self._failed = metrics.counter("logins_failed", "Failed logins.")
        self._locked_out = metrics.counter(
            "logins_locked_out", "Logins refused during a lock-out, by user or address.", "by"
        )

    def login_failed(self) -> None:
        self._failed.inc()

    def login_locked_out(self, by: By) -> None:
        self._locked_out.labels(by).inc()


@dataclass(frozen=True, slots=True)
class Backends:
    """Open backends of a service."""

    settings: Settings
    broker: Broker
    client: RedisClient
    keys: Keys
    directory: Directory
    metrics: Metrics
    health: Health
    batcher: ScriptBatcher
    embedded: EmbeddedStore | None = None
    tokens: "TokenLogins | None" = None
    instance: str = field(default_factory=instance_name)
    """Name of this process."""

    def authenticator(self) -> Authenticator:
        """Return an authenticator on the directory, with sessions in Redis."""
        session = self.settings.session
        evicted = self.metrics.counter(
            "http_sessions_evicted", "HTTP sessions evicted because their user had too many."
        )
        sessions = RedisHttpSessions(
            self.client,
            self.batcher,
            self.keys.prefix,
            idle_s=session.idle_s,
            lifetime_s=session.lifetime_s,
            most_of_user=session.max_per_user,
            displaced=evicted.inc,
        )
        login = self.settings.login
        passwords = Passwords(
            self.directory,
            concurrency=login.concurrency,
            max_waiting=login.max_waiting,
            attempts=RedisLoginAttempts(
                self.batcher,
                self.keys.prefix,
                AttemptLimits(login.failures_per_user, login.failures_per_address, login.window_s),
                LoginMetrics(self.metrics),
            ),
        )
        return Authenticator(self.directory, passwords, sessions, tokens=self.tokens, cookies=self.cookies())

    def cookies(self) -> CookieFlags:
        """Return the cookie flags of the settings."""
        return CookieFlags(self.settings.cookies_are_secure, self.settings.session.same_site)


def token_logins(settings: Settings, users: Directory, client: RedisClient) -> "TokenLogins | None":
    """Return the sign-in by tokens; None without a provider."""
    oidc = settings.oidc
    if oidc.issuer is None:
        return None
    # Here, since it takes a fifth of a second that only some installations need.
    from calltag.core.identity.claimed_users import ClaimedUsers, ClaimNames, TokenLogins
    from calltag.core.identity.openid import OpenIdProvider, OpenIdSettings

    secret = oidc.client_secret
    provider = OpenIdSettings(
        oidc.issuer,
        oidc.audience,
        oidc.client_id,
        secret.get_secret_value() if secret else "",
        oidc.scopes,
        oidc.clock_skew_s,
        oidc.keys_lifetime_s,
        oidc.timeout_s,
        oidc.ca_file,
    )
    names = ClaimNames(
        oidc.user_claim,
        oidc.roles_claim,
        oidc.roles_prefix,
        oidc.features_claim,
        oidc.devices_claim,
        oidc.supervisors_claim,
    )
    claimed = ClaimedUsers(
        users, client, settings.redis.key_prefix, admits=oidc.unlisted_users, forget_s=oidc.forget_users_s
    )
    return TokenLogins(OpenIdProvider(provider), claimed, names, oidc.sessions_end_with_tokens)


def amqp_settings(settings: Settings) -> RabbitMqSettings:
    """Return the configuration of the broker on RabbitMQ."""
    amqp = settings.amqp
    return RabbitMqSettings(
        url=amqp.url.get_secret_value(),
        prefix=amqp.prefix,
        partitions=settings.partitions,
        heartbeat_s=amqp.heartbeat_s,
        publish_deadline_s=amqp.publish_deadline_s,
        watch_s=amqp.watch_s,
        replicas=amqp.replicas,
        queue_max_length=amqp.queue_max_length,
        delivery_limit=amqp.delivery_limit,
        parking_max_length=amqp.parking_max_length,
        inbox_expiry_s=amqp.inbox_expiry_s,
        inbox_max_bytes=amqp.inbox_max_bytes,
        inbox_prefetch=max(1, _INBOX_AHEAD_BYTES // settings.max_batch_bytes),
        tls=client_tls("amqp", amqp.tls),
    )


def open_client(
    settings: Settings, *, deadline_s: float | None = None, max_connections: int | None = None
) -> RedisClient:
    """Open a client for the Redis of the settings; deadline and number of connections can be overridden."""
    redis = settings.redis
    password = redis.sentinel_password
    return open_redis(
        Deployment(
            redis.url.get_secret_value(),
            redis.mode,
            redis.sentinel_service,
            redis.sentinel_username,
            password.get_secret_value() if password else None,
            client_tls("redis", redis.tls),
        ),
        deadline_s=deadline_s or redis.deadline_s,
        max_connections=max_connections or redis.max_connections,
    )


def client_tls(section: str, chosen: ClientTlsSection) -> ClientTls:
    """Return the TLS configuration for the server of that section."""
    return ClientTls(variable((section, "tls", "")), chosen.ca_file, _own_certificate(chosen))


def server_tls(settings: Settings) -> ServerTls | None:
    """Return the TLS configuration of the port for clients; None without TLS."""
    chosen = settings.tls
    return ServerTls(_own_certificate(chosen), chosen.client_ca_file) if chosen.cert_file is not None else None


def _own_certificate(chosen: ClientTlsSection | Tls) -> OwnCertificate:
    password = chosen.key_password
    return OwnCertificate(chosen.cert_file, chosen.key_file, password.get_secret_value() if password else None)


def check_tls(settings: Settings) -> None:
    """Load the TLS files of the settings, so that a mistake is reported at start-up. Raises TlsError."""
    amqp, redis = settings.amqp, settings.redis
    if amqp.url.get_secret_value().startswith("amqps://"):
        client_tls("amqp", amqp.tls).context()
    if redis.url.get_secret_value().startswith("rediss://"):
        client_tls("redis", redis.tls).context()


def load_directory(settings: Settings) -> Directory:
    """Return the directory of the settings. Raises DirectoryError."""
    chosen = settings.directory
    if chosen.demo and chosen.file is not None:
        raise DirectoryError("CALLTAG_DIRECTORY__FILE and CALLTAG_DIRECTORY__DEMO are both set; choose one")
    if chosen.demo:
        _refuse_demo_on_network(settings)
        return demo_directory()
    return read_directory(chosen.file) if chosen.file is not None else directory(())


def _refuse_demo_on_network(settings: Settings) -> None:
    """Refuse to serve the demo on a network: its passwords are public. Raises DirectoryError."""
    hosts = {variable((name, "host")): getattr(settings, name).host for name in ("gateway", "notifier")}
    open_to_all = [f"{name} is {host or 'empty'}" for name, host in hosts.items() if not is_loopback(host)]
    if open_to_all and not settings.directory.demo_on_network:
        raise DirectoryError(
            f"the demo contact centre, whose passwords are public, stays off the network ({open_to_all[0]}): "
            "set CALLTAG_DIRECTORY__FILE to a directory of your own, or CALLTAG_DIRECTORY__DEMO_ON_NETWORK=true"
        )


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _remove_lost_blocks(client: RedisClient, settings: Settings) -> None:
    """Remove the blocks of parked operations of a former process: they were lost with its in-process broker."""
    forgotten = await RedisCallBlocks(client, Keys(settings.redis.key_prefix), settings.partitions).forget()
    if forgotten:
        log.warning("call_blocks_lost", count=forgotten, reason="an embedded broker loses parked operations")


@asynccontextmanager
async def backends(service: str, settings: Settings, *, embedded: bool = False) -> AsyncIterator[Backends]:
    """Open broker and store; neither has to be reachable yet. `embedded` selects those in this process.

    Raises DirectoryError, TlsError, DataFolderInUse, DataFolderUnusable, StoreNotInstalled.
    """
    users = load_directory(settings)
    async with AsyncExitStack() as stack:
        broker: Broker
        store: EmbeddedStore | None
        metrics = Metrics()
        if embedded:
            folder = settings.embedded.folder
            store = await stack.enter_async_context(embedded_store(folder, deadline_s=settings.redis.deadline_s))
            if store.kept_in is None:
                log.warning("embedded_store_not_persistent", reason=store.reason)
            else:
                log.info("embedded_store", kept_in=str(store.kept_in))
                await _remove_lost_blocks(store.client, settings)
            broker, client = (
                MemoryBroker(
                    settings.partitions,
                    queue_limit=settings.amqp.queue_max_length,
                    inbox_max_bytes=settings.amqp.inbox_max_bytes,
                    parking_limit=settings.amqp.parking_max_length,
                ),
                store.client,
            )
        else:
            store = None
            check_tls(settings)
            client = open_client(settings)
            stack.push_async_callback(client.close)
            observed = BrokerMetrics(metrics)
            broker = amqp = await stack.enter_async_context(open_rabbitmq(amqp_settings(settings), observed))
            observed.show(amqp.state)
        health = Health(service, {"broker": broker.connected, "consumers": broker.consuming, "store": client.ping})
        keys = Keys(settings.redis.key_prefix)
        tokens = token_logins(settings, users, client)
        if tokens is not None:
            stack.push_async_callback(tokens.provider.close)
        yield Backends(settings, broker, client, keys, users, metrics, health, ScriptBatcher(client), store, tokens)
