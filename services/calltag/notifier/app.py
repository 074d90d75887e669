"""The notifier, put together."""

from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from starlette.routing import BaseRoute

from calltag.core.backends import Backends
from calltag.core.bayeux.engine import CALLBACK_POLLING, LONG_POLLING, WEBSOCKET, Engine
from calltag.core.bayeux.extensions.acknowledgment import Acknowledgment
from calltag.core.bayeux.extensions.activity import Activity
from calltag.core.bayeux.extensions.delivery import Delivery
from calltag.core.bayeux.extensions.interface import Extension
from calltag.core.bayeux.extensions.replay import Replay
from calltag.core.bayeux.extensions.timestamp import Timestamp
from calltag.core.bayeux.extensions.timesync import Timesync
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bus.ports import NodeId
from calltag.core.http.origin import AllowedOrigins
from calltag.core.identity.authentication import Authenticator
from calltag.core.runtime.lifecycle import Lifecycle
from calltag.core.settings import Settings
from calltag.core.settings.sections import Notifier as NotifierSettings
from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.core.store.user_streams import RedisUserStreams
from calltag.core.store.watches import RedisWatches
from calltag.notifier.cometd.authorizing import Authorizer
from calltag.notifier.cometd.browsers import Browsers
from calltag.notifier.cometd.clocks import monotonic_ms
from calltag.notifier.cometd.connects import Connects
from calltag.notifier.cometd.endings import EndingLog
from calltag.notifier.cometd.feeding import Feeding
from calltag.notifier.cometd.hub import Hub
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.origins import Origins
from calltag.notifier.cometd.residence import Residence
from calltag.notifier.cometd.side_tasks import SideTasks
from calltag.notifier.cometd.sockets import Sockets
from calltag.notifier.cometd.watching import Watching
from calltag.notifier.consumer import EventConsumer, NodePost, tell_services
from calltag.notifier.messages import Translator
from calltag.notifier.observations import EndingCounts, NotifierObservations
from calltag.notifier.routes import AuthenticatedAccess, cometd_routes
from calltag.notifier.session_counts import SessionCounts

_SHORTEST_WATCH_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Notifier:
    """A notifier whose side tasks run; `routes` are to be served, `hub.drain` and `leave` are its end."""

    hub: Hub
    routes: list[BaseRoute]

    async def leave(self) -> None:
        """Have no events routed here any more, once the store knows what was sent."""
        connects = self.hub.connects
        for session in list(connects.local.sessions.values()):
            connects.ends.let_go(session)
        await connects.side_tasks.finish()


def bayeux_limits(settings: NotifierSettings) -> BayeuxLimits:
    """The engine's limits from the settings."""
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
    """The connection types that are offered, the better ones first."""
    usual = (WEBSOCKET, LONG_POLLING)
    return (*usual, CALLBACK_POLLING) if settings.callback_polling else usual


def extensions(settings: NotifierSettings) -> tuple[Extension, ...]:
    """The extensions of the protocol that are on."""
    usual = (Acknowledgment(), Replay(), Delivery(), Timesync(), Timestamp())
    if not settings.activity_s:
        return usual
    return (*usual, Activity(round(settings.activity_s * 1000), both_sides=settings.activity == "client-server"))


def start_notifier(backends: Backends, life: Lifecycle, authenticator: Authenticator) -> Notifier:
    """Start the side tasks of a notifier."""
    settings = backends.settings.notifier
    node = NodeId(f"notifier-{uuid4().hex}")
    translator = Translator(backends.settings.public_url, backends.directory)
    hub = _hub(backends, node, translator)
    consumer = EventConsumer(hub, translator, backends.metrics)
    backends.metrics.observers.append(SessionCounts(backends.metrics, hub.connects.local).observe)
    backends.health.checks["inbox"] = lambda: hub.reachable
    life.supervise("events", consumer.run(backends.bus, node))
    life.supervise("sweeper", hub.sweep())
    life.supervise("services", tell_services(backends.bus, hub))
    access = AuthenticatedAccess(authenticator, backends.settings.session.csrf_protection)
    routes = cometd_routes(
        hub,
        access,
        Origins(AllowedOrigins(backends.settings.allowed_origins), AllowedOrigins([backends.settings.public_url])),
        Browsers(settings.max_sessions_per_browser, settings.multi_session_interval_ms, backends.cookies()),
        body_deadline_s=backends.settings.body_deadline_s,
        socket_deadline_s=settings.socket_deadline_s,
    )
    return Notifier(hub, routes)


def _hub(backends: Backends, node: NodeId, translator: Translator) -> Hub:
    limits = bayeux_limits(backends.settings.notifier)
    retention_ms = round(backends.settings.events.retention_s * 1000)
    client, batcher, keys = backends.client, backends.batcher, backends.keys
    local, side_tasks, metrics = Local(), SideTasks(), NotifierObservations(backends.metrics)
    max_bytes = backends.settings.max_batch_bytes
    store = RedisCometdSessions(client, batcher, keys, node, retention_ms=retention_ms, max_batch_bytes=max_bytes)
    streams = RedisUserStreams(client, batcher, keys, retention_ms=retention_ms, max_batch_bytes=max_bytes)
    watches = RedisWatches(client, batcher, keys, lease_ms=max(2 * retention_ms, _SHORTEST_WATCH_MS))
    authorizer = Authorizer(backends.directory)
    settings = backends.settings.notifier
    engine = Engine(
        limits,
        authorizer.may_subscribe,
        authorizer.may_publish,
        extensions(settings),
        connection_types(settings),
        settings.handshake_reconnect,
    )
    return Hub(
        Connects(
            node,
            engine,
            store,
            local,
            Feeding(local, streams, translator.entry, limits, metrics, side_tasks),
            Residence(store, local, side_tasks),
            Watching(watches, side_tasks, monotonic_ms),
            NodePost(backends.bus),
            metrics,
            side_tasks,
            backends.directory.credential_of,
            listeners=(EndingLog(), EndingCounts(backends.metrics)),
            connects_only=settings.meta_connect_delivery_only,
        ),
        Sockets(_socket_spread_s(backends.settings), backends.settings.drain_timeout_s),
        bearer_lifetime_ms=backends.settings.session.lifetime_s * 1000,
    )


def _socket_spread_s(settings: Settings) -> float:
    """What is left of the time to drain is for what is under way on them."""
    return min(settings.notifier.drain_spread_ms / 1000, settings.drain_timeout_s / 2)
