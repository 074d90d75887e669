"""The notifier, put together."""

from dataclasses import dataclass
from uuid import uuid4

from starlette.routing import BaseRoute

from calltag.core.backends import Backends
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bus.ports import NodeId
from calltag.core.identity.authentication import Authenticator
from calltag.core.runtime.lifecycle import Lifecycle
from calltag.core.settings.sections import Notifier as NotifierSettings
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.redis_registry import RedisNodeRegistry
from calltag.notifier.cometd.hub import Hub
from calltag.notifier.cometd.origins import Origins
from calltag.notifier.consumer import EventConsumer, NodePresence, keep_present, tell_services
from calltag.notifier.observations import NotifierObservations
from calltag.notifier.routes import AuthenticatedAccess, cometd_routes


@dataclass(frozen=True, slots=True)
class Notifier:
    """A notifier whose side tasks run; `routes` are to be served, `drain` and `leave` are its end."""

    hub: Hub
    routes: list[BaseRoute]
    node: NodeId
    registry: RedisNodeRegistry

    async def leave(self) -> None:
        """Have no events routed here any more."""
        try:
            await self.registry.leave(self.node)
        except StoreUnavailable:
            return  # The first message that finds no inbox ends it.


def bayeux_limits(settings: NotifierSettings) -> BayeuxLimits:
    """The engine's limits from the settings."""
    return BayeuxLimits(
        timeout_ms=round(settings.timeout_s * 1000),
        interval_ms=settings.interval_ms,
        max_interval_ms=round(settings.max_interval_s * 1000),
        max_sessions=settings.max_sessions,
        max_sessions_per_user=settings.max_sessions_per_user,
        max_subscriptions=settings.max_subscriptions,
        max_queued_events=settings.max_queued_events,
        max_queued_bytes=settings.max_queued_bytes,
        max_messages=settings.max_messages,
        max_body_bytes=settings.max_body_bytes,
        max_depth=settings.max_depth,
    )


def start_notifier(backends: Backends, life: Lifecycle, authenticator: Authenticator) -> Notifier:
    """Start the side tasks of a notifier."""
    settings = backends.settings.notifier
    node = NodeId(f"notifier-{uuid4().hex}")
    registry = RedisNodeRegistry(backends.client, backends.keys)
    presence = NodePresence(node, registry)
    hub = Hub(bayeux_limits(settings), presence, NotifierObservations(backends.metrics))
    consumer = EventConsumer(hub, presence, backends.metrics, backends.settings.public_url)
    backends.health.checks["inbox"] = lambda: hub.reachable
    life.supervise("events", consumer.run(backends.bus, node))
    life.supervise("presence", keep_present(presence, hub))
    life.supervise("sweeper", hub.sweep())
    life.supervise("services", tell_services(backends.bus, hub))
    access = AuthenticatedAccess(authenticator, backends.settings.gateway.csrf_protection)
    return Notifier(hub, cometd_routes(hub, access, Origins(settings.allowed_origins)), node, registry)
