"""Wiring of the notifier."""

from dataclasses import dataclass
from typing import Final

from starlette.routing import BaseRoute

from calltag.core.backends import Backends
from calltag.core.bayeux.engine import CALLBACK_POLLING, LONG_POLLING, WEBSOCKET, Engine
from calltag.core.bayeux.extensions import (
    Acknowledgment,
    Activity,
    DeliveryExtension,
    Extension,
    ReplayExtension,
    SnapshotExtension,
    Timestamp,
    Timesync,
)
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.broker.ports import NodeId
from calltag.core.http.origin import AllowedOrigins
from calltag.core.identity.authentication import Authenticator
from calltag.core.process.lifecycle import Lifecycle
from calltag.core.settings import Settings
from calltag.core.settings.sections import NotifierSettings
from calltag.core.store.calls import RedisCallReader
from calltag.core.store.event_log import RedisEventLog
from calltag.core.store.sessions import SessionStore
from calltag.core.store.watches import RedisWatches
from calltag.notifier.authentication import Authentication
from calltag.notifier.bayeux_server import BayeuxServer
from calltag.notifier.browsers import Browsers, Origins
from calltag.notifier.channel_policy import ChannelPolicy, WatchRenewal
from calltag.notifier.connect_replies import ConnectReplies
from calltag.notifier.event_dispatcher import EventDispatcher
from calltag.notifier.event_views import EventViews
from calltag.notifier.http import CometdHttp, cometd_routes
from calltag.notifier.inbox import NodePost, NotifierInbox, publish_services
from calltag.notifier.metrics import NotifierMetrics
from calltag.notifier.node_presence import Background, NodeLease, Registrations, boot_ms
from calltag.notifier.session_claims import Claims
from calltag.notifier.session_manager import HomeSettings, SessionManager
from calltag.notifier.session_registry import SessionRegistry
from calltag.notifier.snapshots import Snapshots
from calltag.notifier.websocket import WebSockets

_SHORTEST_WATCH_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Notifier:
    """A notifier with running side tasks: `http` serves requests and WebSockets, `routes` are served beside it."""

    server: BayeuxServer
    http: CometdHttp
    routes: list[BaseRoute]
    drain_timeout_s: float

    async def drain(self) -> None:
        """Answer suspended connects and close WebSockets, spread over the time to drain."""
        self.server.drain()
        self.http.sockets.drain()
        await self.http.sockets.closed(self.drain_timeout_s)

    async def leave(self) -> None:
        """Save all sessions, and remove the node from event routing."""
        await self.server.sessions.leave()


def bayeux_limits(settings: NotifierSettings) -> BayeuxLimits:
    """Return the engine's limits."""
    return BayeuxLimits(
        timeout_ms=round(settings.timeout_s * 1000),
        interval_ms=settings.interval_ms,
        max_interval_ms=round(settings.max_interval_s * 1000),
        max_server_interval_ms=round(settings.max_server_interval_s * 1000) or None,
        max_sessions=settings.max_sessions,
        max_sessions_per_user=settings.max_sessions_per_user,
        max_sessions_per_address=settings.max_sessions_per_address,
        handshakes_per_s=settings.handshakes_per_s,
        handshake_burst=settings.handshake_burst,
        handshakes_per_s_per_address=settings.handshakes_per_s_per_address,
        handshake_burst_per_address=settings.handshake_burst_per_address,
        max_handshake_addresses=settings.max_handshake_addresses,
        max_refused_handshakes=settings.max_refused_handshakes,
        max_subscriptions=settings.max_subscriptions,
        max_queued_events=settings.max_queued_events,
        max_queued_bytes=settings.max_queued_bytes,
        max_queued_bytes_total=settings.max_queued_bytes_total,
        max_answer_bytes=settings.max_answer_bytes,
        max_frame_bytes=settings.max_frame_bytes,
        max_messages=settings.max_messages,
        max_body_bytes=settings.max_body_bytes,
        max_depth=settings.max_depth,
        drain_spread_ms=settings.drain_spread_ms,
    )


def connection_types(settings: NotifierSettings) -> tuple[str, ...]:
    """Return the connection types, in order of preference."""
    offered = ((WEBSOCKET, settings.websocket), (LONG_POLLING, True), (CALLBACK_POLLING, settings.callback_polling))
    return tuple(name for name, is_on in offered if is_on)


def extensions(settings: NotifierSettings) -> tuple[Extension, ...]:
    """Return the enabled protocol extensions."""
    usual = (
        Acknowledgment(),
        ReplayExtension(),
        DeliveryExtension(),
        SnapshotExtension(),
        Timesync(),
        Timestamp(),
    )
    if not settings.activity_s:
        return usual
    return (*usual, Activity(round(settings.activity_s * 1000), both_sides=settings.activity == "client-server"))


def home_settings(settings: NotifierSettings) -> HomeSettings:
    """Return the settings of homes: write-behind, roaming, recheck of credentials."""
    return HomeSettings(
        settings.save_interval_s,
        round(settings.roaming_s * 1000),
        round(settings.credential_recheck_s * 1000),
    )


def start_notifier(backends: Backends, life: Lifecycle, authenticator: Authenticator) -> Notifier:
    """Start the side tasks of a notifier."""
    settings = backends.settings.notifier
    node = NodeId(f"notifier-{backends.instance}")
    views = EventViews(backends.settings.public_url, backends.directory)
    sessions = _sessions(backends, node, views)
    reader = RedisCallReader(backends.client, backends.keys, backends.settings.partitions, backends.batcher)
    policy = ChannelPolicy(backends.directory)
    snapshots = Snapshots(reader, views, policy, sessions.engine.limits.max_answer_bytes)
    server = BayeuxServer(sessions, snapshots=snapshots)
    metrics = sessions.metrics
    inbox = NotifierInbox(server, views, metrics)
    backends.metrics.before_scrape(lambda: metrics.observe(sessions.registry.residents.values()))
    backends.health.checks["inbox"] = lambda: server.is_reachable
    authentication = Authentication(authenticator, backends.settings.session.csrf_protection)
    sockets = WebSockets(
        server, authentication, settings.socket_deadline_s, _socket_spread_s(backends.settings), settings.websocket
    )
    origins = Origins(AllowedOrigins(backends.settings.allowed_origins), AllowedOrigins([backends.settings.public_url]))
    browsers = Browsers(settings.max_sessions_per_browser, settings.multi_session_interval_ms, backends.cookies())
    http = CometdHttp(server, authentication, origins, browsers, sockets, metrics, backends.settings.body_deadline_s)
    life.supervise("lease", sessions.lease.keep())
    life.supervise("events", inbox.run(backends.broker, node))
    life.supervise("saves", sessions.sync.keep_saving())
    life.supervise("deadlines", sessions.keep_ticking())
    life.supervise("websockets", sockets.keep_ticking())
    life.supervise("services", publish_services(backends.broker, server))
    return Notifier(server, http, cometd_routes(http), backends.settings.drain_timeout_s)


def _engine(settings: NotifierSettings, limits: BayeuxLimits, policy: ChannelPolicy) -> Engine:
    return Engine(
        limits,
        policy.may_subscribe,
        policy.may_publish,
        extensions(settings),
        connection_types(settings),
        handshake_reconnect=settings.handshake_reconnect,
    )


def _sessions(backends: Backends, node: NodeId, views: EventViews) -> SessionManager:
    settings = backends.settings.notifier
    limits = bayeux_limits(settings)
    retention_ms = round(backends.settings.events.retention_s * 1000)
    client, batcher, keys = backends.client, backends.batcher, backends.keys
    max_bytes = backends.settings.max_batch_bytes
    store = SessionStore(client, batcher, keys, node, retention_ms=retention_ms, max_batch_bytes=max_bytes)
    streams = RedisEventLog(client, batcher, keys, retention_ms=retention_ms, max_batch_bytes=max_bytes)
    watches = RedisWatches(client, batcher, keys, lease_ms=max(2 * retention_ms, _SHORTEST_WATCH_MS))
    metrics = NotifierMetrics(backends.metrics)
    background = Background(metrics.background_failures.inc)
    registry = SessionRegistry(limits, boot_ms)
    policy = ChannelPolicy(backends.directory)
    engine = _engine(settings, limits, policy)
    lease = NodeLease(store, round(settings.lease_s * 1000))
    credential_of, flush_timeout_s = backends.directory.credential_of, settings.flush_timeout_s
    return SessionManager(
        node,
        engine,
        store,
        registry,
        EventDispatcher(registry, streams, views.entry, limits, metrics, background, lease),
        ConnectReplies(engine, registry, metrics),
        Registrations(store, registry, background),
        lease,
        Claims(node, engine, store, NodePost(backends.broker), metrics, credential_of, flush_timeout_s),
        WatchRenewal(policy, watches, boot_ms),
        metrics,
        background,
        home_settings(settings),
        settings.meta_connect_delivery_only,
        backends.settings.session.lifetime_s * 1000,
    )


def _socket_spread_s(settings: Settings) -> float:
    """Return the seconds over which WebSockets close; the rest of the drain is for requests in flight."""
    return min(settings.notifier.drain_spread_ms / 1000, settings.drain_timeout_s / 2)
