"""Composition of a process: any of the three services, alone or all together."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from calltag.core import VERSION
from calltag.core.backends import NO_USERS, Backends, backends, server_tls
from calltag.core.domain.status import StatusCode
from calltag.core.http.metrics import ServerMetrics
from calltag.core.http.responses import NotYet
from calltag.core.http.scope import COMETD_PATHS, routed
from calltag.core.http.server import Server, ServerOptions, bound_socket, serving
from calltag.core.identity.directory_reload import DirectoryReload
from calltag.core.process.lifecycle import Lifecycle
from calltag.core.process.os_limits import raise_descriptor_limit, spare_garbage_collection
from calltag.core.process.waiting import backoff_s, set_within
from calltag.core.settings import Settings
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.processes import RedisProcesses, keep_registered, this_process
from calltag.core.store.workers import check_installation
from calltag.core.telemetry.conditions import Condition
from calltag.core.telemetry.internal_http import Health, internal_app
from calltag.core.telemetry.request_ids import RequestIds

log = structlog.get_logger()
_LOOK_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that a process listens on; a worker has none for clients."""

    internal: int
    clients: int | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """A process that is ready, with its ports."""

    parts: Backends
    ports: Ports

    def public(self) -> dict[str, object]:
        """Return the JSON of `--ready-json`, for test harnesses."""
        settings = self.parts.settings
        return {
            "event": "ready",
            "service": self.parts.health.service,
            "version": VERSION,
            "pid": os.getpid(),
            "url": settings.public_url if self.ports.clients else None,
            "port": self.ports.clients,
            "internal_url": f"http://{reachable(settings.internal.host)}:{self.ports.internal}",
            "internal_port": self.ports.internal,
        }


def as_bound(settings: Settings, ports: Ports, *, gateway: bool) -> Settings:
    """Return the settings with the bound ports in place of 0, and with a gateway's own address if no public URL is
    set."""
    changes: dict[str, Any] = {"internal": settings.internal.model_copy(update={"port": ports.internal})}
    if ports.clients is not None:
        section = "gateway" if gateway else "notifier"
        chosen = getattr(settings, section).model_copy(update={"port": ports.clients})
        changes[section] = chosen
        if gateway and "public_url" not in settings.model_fields_set:
            scheme = "https" if settings.tls.cert_file is not None else "http"
            changes["public_url"] = f"{scheme}://{reachable(chosen.host)}:{ports.clients}"
    return settings.model_copy(update=changes)


def reachable(host: str) -> str:
    """Return the host of a URL that reaches the listening address from this machine."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return host if address.version == 4 else f"[{host}]"


async def report_ready(health: Health, stop: asyncio.Event, report: Callable[[], None]) -> None:
    """Call `report` once all checks hold; return when `stop` is set."""
    while not stop.is_set():
        if all((await health.states()).values()):
            report()
            break
        await set_within(stop, _LOOK_EVERY_S)
    await stop.wait()


if TYPE_CHECKING:
    from calltag.notifier.app import Notifier

_NO_STORE: Final = Condition("waiting_for_store", over="store_reached", cure="CALLTAG_REDIS__URL says where Redis is")
_OTHER_DESCRIPTORS: Final = 384
"""File descriptors reserved for everything but client connections: RabbitMQ, Redis, files, refused clients."""
_LEAST_WORK_S: Final = 1.0
"""Minimum seconds for the worker's batches, even if clients of the same process used up the time to drain."""
_LAST_ANSWERS_S: Final = 1.0
"""Seconds before the end of the drain at which requests that wait for outcomes are answered."""
_CLOSE_TIMEOUT_S: Final = 5.0
"""Seconds to close the connections after the drain; then the process ends in any case."""


@dataclass(frozen=True, slots=True)
class Composition:
    """The services of this process; `embedded` runs them without RabbitMQ and Redis."""

    gateway: bool = False
    worker: bool = False
    notifier: bool = False
    embedded: bool = False

    @property
    def name(self) -> str:
        """The name of the service in logs and metrics."""
        chosen = [name for name in ("gateway", "worker", "notifier") if getattr(self, name)]
        return chosen[0] if len(chosen) == 1 else "serve"


async def run_composition(
    life: Lifecycle, settings: Settings, chosen: Composition, ready: Callable[[Serving], None] | None = None
) -> None:
    """Run until `life.stop` is set, then drain: fail /readyz, wait for load balancers, answer held requests, finish
    work in flight. `ready` is called once, when all services are ready.

    Raises PortBusy, DirectoryError, TlsError, DataFolderInUse, DataFolderUnusable, StoreNotInstalled,
    InstallationMismatch.
    """
    async with AsyncExitStack() as sockets:
        listeners = [sockets.enter_context(each) for each in _listeners(settings, chosen)]
        ports = Ports(*(listener.getsockname()[1] for listener in listeners))
        settings = as_bound(settings, ports, gateway=chosen.gateway)
        async with backends(chosen.name, settings, embedded=chosen.embedded) as parts:
            serves = chosen.gateway or chosen.notifier
            if serves and not parts.directory.users and not settings.oidc.unlisted_users:
                log.warning("no_users", reason=NO_USERS)
            async with _internal(parts, listeners[0], settings):
                await _run(parts, life, chosen, listeners[1:], partial(_announce, Serving(parts, ports), ready))


def _announce(serving: Serving, ready: Callable[[Serving], None] | None) -> None:
    log_line = serving.public()
    log.info("ready", url=log_line["url"], port=log_line["port"], internal_port=log_line["internal_port"])
    if ready is not None:
        ready(serving)


def _listeners(settings: Settings, chosen: Composition) -> list[socket.socket]:
    """Bind the internal port and the one for clients; done first, so that a busy port is reported at once."""
    internal = settings.internal
    listeners = [bound_socket(internal.host, internal.port, "CALLTAG_INTERNAL__PORT (0 takes a free one)")]
    if chosen.gateway:
        gateway = settings.gateway
        listeners.append(bound_socket(gateway.host, gateway.port, "PORT=, --port or CALLTAG_GATEWAY__PORT"))
    elif chosen.notifier:
        notifier = settings.notifier
        listeners.append(bound_socket(notifier.host, notifier.port, "--port or CALLTAG_NOTIFIER__PORT"))
    return listeners


async def _check_installation(parts: Backends, stop: asyncio.Event) -> bool:
    """Retry until the installation was checked (True) or `stop` is set (False). Raises InstallationMismatch."""
    delays = backoff_s(0.1, 2.0)
    while not stop.is_set():
        try:
            await check_installation(parts.client, parts.keys, parts.settings.partitions)
        except StoreUnavailable as error:
            _NO_STORE.fails(error)
            await set_within(stop, next(delays))
        else:
            _NO_STORE.holds()
            return True
    return False


@asynccontextmanager
async def _internal(parts: Backends, listener: socket.socket, settings: Settings) -> AsyncIterator[None]:
    app = internal_app(parts.health, parts.metrics)
    async with serving(RequestIds(app), listener, drain_timeout_s=1.0) as port:
        log.info("internal_port", host=settings.internal.host, port=port)
        yield


async def _run(
    parts: Backends,
    life: Lifecycle,
    chosen: Composition,
    listeners: list[socket.socket],
    ready: Callable[[], None],
) -> None:
    """Listen at once; work, and serve clients, after the installation in Redis was checked.

    Before that, operations might be published to wrong partitions.
    """
    checked, working = asyncio.Event(), asyncio.Event()
    parts.health.checks["installation"] = checked.is_set
    worker, notifier = None, None
    server = _server(parts)
    async with AsyncExitStack() as stack:
        for listener in listeners:
            serving_clients = server.serving(listener, drain_timeout_s=parts.settings.drain_timeout_s)
            port = await stack.enter_async_context(serving_clients)
            log.info("listening", service=chosen.name, port=port)
        if await _check_installation(parts, life.stop):
            _register(parts, life, parts.settings.internal.port)
            if listeners:
                _follow_users(parts, life)
            if chosen.worker:
                from calltag.worker.app import run_worker

                worker = life.supervise("worker-service", run_worker(parts, life, working))
            if listeners:
                app, notifier = _client_app(parts, life, chosen)
                server.app = RequestIds(app)
                if notifier is not None:
                    server.handle_directly(notifier.http, notifier.server.sessions.connection_broke)
            checked.set()
            spare_garbage_collection()
            life.supervise("readiness", report_ready(parts.health, life.stop, ready))
            await life.stop.wait()
        drained_by_s = await _begin_to_drain(parts, life, server, serves=bool(listeners))
        if notifier is not None:
            await notifier.drain()
    working.set()
    if worker is not None:
        await asyncio.wait({worker}, timeout=max(_LEAST_WORK_S, drained_by_s - time.monotonic()))
    if notifier is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(_LEAST_WORK_S, drained_by_s - time.monotonic())):
                await notifier.leave()
    # Consumers end before the connections close, and so do not report a fault.
    life.end()


_REPORTED: Final = (
    "operations_accepted",
    "operations_applied",
    "deliveries",
    "http_connections",
    "cometd_sessions",
    "partitions_owned",
    "oldest_operation_seconds",
    "backlog_operations",
)
"""Metrics whose values processes report to Redis, for commands of operators."""


def _register(parts: Backends, life: Lifecycle, internal_port: int) -> None:
    """Keep this process in the registry, with its values."""
    processes = RedisProcesses(parts.client, parts.keys)
    process = this_process(parts.instance, parts.health.service, internal_port)
    values = partial(parts.metrics.values, _REPORTED)
    life.supervise("process-registry", keep_registered(processes, process, values))


def _follow_users(parts: Backends, life: Lifecycle) -> None:
    """Follow changes of the directory's file, and of the users whom tokens describe."""
    claimed = None if parts.tokens is None else parts.tokens.users
    if (file := parts.settings.directory.file) is not None:
        reload = DirectoryReload(file, parts.directory, claimed.file_read if claimed is not None else None)
        life.supervise("directory", reload.run())
    if claimed is not None:
        life.supervise("claimed-users", claimed.run())


def _server(parts: Backends) -> Server:
    """Return the server for clients, with its metrics."""
    waiting = RequestIds(NotYet("calltag waits for its store; try again in a moment"))
    metrics = ServerMetrics(parts.metrics)
    server = Server(waiting, server_options(parts.settings), refused=metrics.refused)
    metrics.show(lambda: server.places.taken)
    return server


async def _begin_to_drain(parts: Backends, life: Lifecycle, server: Server, *, serves: bool) -> float:
    """Fail /readyz, and wait until load balancers have noticed; return the deadline of the drain (monotonic seconds).

    WebSockets, requests and the worker's batches share this deadline.
    """
    settings = parts.settings
    parts.health.stop()
    server.close_after_responses()
    life.end_within(settings.drain_delay_s + settings.drain_timeout_s + _CLOSE_TIMEOUT_S)
    if serves and life.failure is None:
        await asyncio.sleep(settings.drain_delay_s)
    server.drain_within(settings.drain_timeout_s)
    answers_from_s = max(settings.drain_timeout_s - _LAST_ANSWERS_S, settings.drain_timeout_s / 2)
    asyncio.get_running_loop().call_later(answers_from_s, life.closing.set)
    return time.monotonic() + settings.drain_timeout_s


def connection_limit(settings: Settings) -> int:
    """Return the maximum of client connections: the setting, bounded by the file descriptors of the process."""
    descriptors = raise_descriptor_limit()
    possible = max(1, descriptors - _OTHER_DESCRIPTORS)
    if possible < settings.max_connections:
        # A default that does not fit is not worth a warning.
        log_line = log.warning if "max_connections" in settings.model_fields_set else log.info
        log_line("few_descriptors", limit=descriptors, connections=possible, wanted=settings.max_connections)
    return min(settings.max_connections, possible)


def server_options(settings: Settings) -> ServerOptions:
    """Return the bounds of the server for clients."""
    return ServerOptions(
        limits=settings.http,
        max_connections=connection_limit(settings),
        body_deadline_s=settings.body_deadline_s,
        max_message_bytes=settings.notifier.max_body_bytes,
        permessage_deflate=settings.notifier.permessage_deflate,
        trusted_proxies=settings.trusted_proxies,
        user_header=settings.login.user_header,
        user_proxies=settings.login.user_header_proxies,
        tls=server_tls(settings),
    )


def _client_app(parts: Backends, life: Lifecycle, chosen: Composition) -> "tuple[ASGIApp, Notifier | None]":
    """Return the application: CometD's endpoints first, the API for all other addresses."""
    authenticator = parts.authenticator()
    notifier: Notifier | None = None
    if chosen.notifier:
        from calltag.notifier.app import start_notifier

        notifier = start_notifier(parts, life, authenticator)
    routes = [*notifier.routes] if notifier is not None else []
    if chosen.gateway:
        from calltag.gateway.app import admitting, gateway_app

        settings = parts.settings.gateway
        api = admitting(gateway_app(parts, life, authenticator), settings, parts.metrics)
        if notifier is None:
            # Refusing a request costs least without a router in front.
            return api, None
        app = routed(routes)
        # Not a mount, whose pattern matches no address with a line feed.
        app.router.default = api
        return app, notifier
    app = routed(routes)
    app.router.default = _no_api
    return app, notifier


async def _no_api(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request that belongs to the gateway."""
    if scope["type"] == "websocket":
        await WebSocketClose()(scope, receive, send)
        return
    message = (
        f"this is a notifier, which serves CometD at {' and '.join(COMETD_PATHS)}: let the proxy in front send all "
        "other addresses to a gateway"
    )
    refusal = {"statusCode": int(StatusCode.NOT_FOUND), "statusMessage": message}
    await Response(orjson.dumps(refusal), 404, media_type="application/json")(scope, receive, send)
