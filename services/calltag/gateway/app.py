"""Assembly of the gateway: application, routes, limits and error responses."""

import time
from typing import Final

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from calltag.core import VERSION
from calltag.core.backends import Backends
from calltag.core.broker.ports import NodeId
from calltag.core.http.admission_queue import AdmissionQueue
from calltag.core.http.cross_origin import CrossOrigin
from calltag.core.http.origin import AllowedOrigins
from calltag.core.http.scope import COMETD_PATHS, is_under
from calltag.core.identity.authentication import Authenticator
from calltag.core.process.lifecycle import Lifecycle
from calltag.core.process.limits import Buckets, RateLimit
from calltag.core.settings.sections import Gateway
from calltag.core.store.backlog import RedisLags, RedisPublishedTotals
from calltag.core.store.calls import RedisCallReader
from calltag.core.store.ports import StateUnreadable, StoreUnavailable
from calltag.core.strict_json import JsonLimits
from calltag.core.telemetry.metrics import Metrics
from calltag.gateway import documentation
from calltag.gateway.authentication import ApiAuthentication, Challenge
from calltag.gateway.backlog import Backlog
from calltag.gateway.call_list import CallList
from calltag.gateway.call_service import CallBounds, CallService
from calltag.gateway.desktop_routes import Desktop, desktop_routes, internal_routes
from calltag.gateway.errors import (
    ApiError,
    BackendUnavailable,
    NotFound,
    OutOfRange,
    RecordUnreadable,
)
from calltag.gateway.idempotency import Idempotency, RedisIdempotencyRecords
from calltag.gateway.logout import Logout
from calltag.gateway.metrics import GatewayLimit, GatewayMetrics
from calltag.gateway.middleware import Direct, Finishing, allow, failed, route_of
from calltag.gateway.operation_pipeline import OperationPipeline
from calltag.gateway.operation_publisher import OperationPublisher, Replies
from calltag.gateway.product import add_swagger, product_routes
from calltag.gateway.rate_limits import RateLimits
from calltag.gateway.requests import BodyReader, UserDataLimits
from calltag.gateway.resources import answer
from calltag.gateway.routes import Api, operate_call, switch_routes, user_routes
from calltag.gateway.switch_events import SwitchLimits

log = structlog.get_logger()
_METHOD_NOT_ALLOWED: Final = 405


def gateway_app(backends: Backends, life: Lifecycle, authenticator: Authenticator) -> ASGIApp:
    """Return the HTTP API; its inbox for outcomes and its backlog run as side tasks."""
    settings, allowed_origins = backends.settings.gateway, backends.settings.allowed_origins
    metrics = GatewayMetrics(backends.metrics)
    replies = Replies(NodeId(f"gateway-{backends.instance}"), life.closing)
    backends.health.checks["replies"] = lambda: replies.reachable
    life.supervise("replies", replies.run(backends.broker))
    backlog = backlog_of(backends, metrics)
    life.supervise("backlog", backlog.run())
    api = gateway_api(backends, replies, metrics, backlog, authenticator)
    logout = Logout(authenticator, backends.client, backends.keys, backends.broker)
    desktop = Desktop(api, CallList(api.service), logout)
    limits = SwitchLimits(settings.max_switch_events, backends.settings.worker.max_call_parties, api.limits)
    application = build_app(desktop, metrics, limits)
    add_browser_login(application, backends, authenticator)
    app = served(application, api, metrics)
    return CrossOrigin(
        app,
        AllowedOrigins(allowed_origins),
        methods=("GET", "HEAD", "POST"),
        headers=("Idempotency-Key", "Prefer"),
        exposed=tuple(documentation.HEADERS),
        own=AllowedOrigins([backends.settings.public_url]),
    )


def gateway_api(
    backends: Backends,
    replies: Replies,
    metrics: GatewayMetrics,
    backlog: Backlog,
    authenticator: Authenticator,
) -> Api:
    """Return the dependencies of the routes, with the limits of the settings."""
    settings, partitions = backends.settings.gateway, backends.settings.partitions
    publisher = OperationPublisher(
        backends.broker, replies, metrics, backlog, partitions, settings.max_in_flight, settings.max_waiting
    )
    authentication = ApiAuthentication(
        authenticator, backends.settings.session.csrf_protection, Challenge(settings.challenge)
    )
    reader = RedisCallReader(backends.client, backends.keys, partitions, backends.batcher)
    return Api(
        authentication=authentication,
        service=CallService(
            reader,
            metrics,
            backends.directory,
            backends.settings.public_url,
            CallBounds(settings.max_live_calls, settings.max_calls_bytes),
        ),
        operations=OperationPipeline(
            authentication,
            BodyReader(
                JsonLimits(settings.max_body_bytes, settings.max_depth, settings.max_values),
                backends.settings.body_deadline_s,
            ),
            rates_of(settings, metrics),
            Idempotency(
                RedisIdempotencyRecords(backends.client, backends.keys, lifetime_s=settings.idempotency_lifetime_s),
                backends.settings.operation_memory_s * 1000,
            ),
            publisher,
            settings.max_wait_s,
        ),
        limits=UserDataLimits(settings.max_pairs, settings.max_user_data_bytes, settings.max_key_bytes),
    )


def backlog_of(backends: Backends, metrics: GatewayMetrics) -> Backlog:
    """Return the backlog, which refuses operations while workers lag too far behind."""
    settings = backends.settings.gateway
    return Backlog(
        backends.broker,
        RedisLags(backends.client, backends.keys),
        RedisPublishedTotals(backends.client, backends.keys),
        metrics,
        settings.max_backlog,
        round(settings.max_backlog_age_s * 1000),
    )


def rates_of(settings: Gateway, metrics: GatewayMetrics) -> RateLimits:
    """Return the rate limits of users and client addresses."""
    return RateLimits(
        Buckets(RateLimit(settings.user_operations_per_s, settings.user_burst), settings.max_rates),
        Buckets(RateLimit(settings.address_operations_per_s, settings.address_burst), settings.max_rates),
        metrics,
        lambda: round(time.monotonic() * 1000),
    )


def admitting(app: ASGIApp, settings: Gateway, registry: Metrics) -> AdmissionQueue:
    """Return the application behind its admission queue, with gauges of requests in flight and queued."""
    metrics = GatewayMetrics(registry)
    intake = AdmissionQueue(
        app,
        settings.max_requests,
        settings.max_queued_requests,
        settings.queue_deadline_s,
        lambda rejection: metrics.limited(GatewayLimit(rejection.value)),
    )

    def observe() -> None:
        metrics.requests_in_flight.set(intake.in_progress)
        metrics.requests_queued.set(intake.queued)

    registry.before_scrape(observe)
    return intake


def build_app(desktop: Desktop, metrics: GatewayMetrics, switch_limits: SwitchLimits) -> FastAPI:
    """Return the application with all routes."""
    api = desktop.api
    app = FastAPI(
        title="calltag",
        version=VERSION,
        description=documentation.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        # A redirect would lead clients to the internal address of this server.
        redirect_slashes=False,
    )
    add_swagger(app)
    app.include_router(product_routes())
    app.include_router(user_routes(api))
    app.include_router(desktop_routes(desktop))
    app.include_router(internal_routes(api))
    app.include_router(switch_routes(api, switch_limits))
    documentation.document(app)
    refusals = Refusals(metrics)
    for kind in refusals.KINDS:
        app.add_exception_handler(kind, refusals.answer)
    # Starlette re-raises the error after the response, so that it is logged.
    app.add_exception_handler(Exception, _failed)
    return app


def add_browser_login(app: FastAPI, backends: Backends, authenticator: Authenticator) -> None:
    """Add the sign-in at an OpenID provider, if there is one at which calltag is a client."""
    settings = backends.settings
    if backends.tokens is None or not settings.oidc.client_id:
        return
    # Here, as its libraries take a fifth of a second that only some installations need.
    from calltag.gateway.browser_login import BrowserLogin, browser_login_routes

    login = BrowserLogin(
        backends.tokens,
        authenticator,
        backends.client,
        backends.keys.prefix,
        backends.cookies(),
        settings.public_url,
    )
    app.include_router(browser_login_routes(login))


async def _failed(*_: object) -> Response:
    return failed()


def served(app: FastAPI, api: Api, metrics: GatewayMetrics) -> ASGIApp:
    """Return the application as it is served: behind the fast path for operations on calls, and inside Finishing."""
    refusals = Refusals(metrics)
    return Finishing(Direct(app, operate_call(api), refusals.answer, refusals.KINDS), metrics.http)


class Refusals:
    """Turns exceptions of the routes into error responses."""

    KINDS: Final = (ApiError, StoreUnavailable, StateUnreadable, HTTPException)

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics

    async def answer(self, request: Request, error: Exception) -> Response:
        """Return the response to a request that failed with this error."""
        if isinstance(error, HTTPException) and error.status_code == _METHOD_NOT_ALLOWED:
            return self._not_served(request)
        refusal = _of_cometd(request) or _as_refusal(error)
        self._metrics.refused(route_of(request.scope), refusal.code)
        return answer(refusal.body(), refusal.http_status, refusal.headers)

    def _not_served(self, request: Request) -> Response:
        headers = {"Allow": allow(request)}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        refusal = OutOfRange("this method is not served here", http_status=_METHOD_NOT_ALLOWED, headers=headers)
        self._metrics.refused(route_of(request.scope), refusal.code)
        return answer(refusal.body(), refusal.http_status, refusal.headers)


def _of_cometd(request: Request) -> ApiError | None:
    """Return the refusal of a request that belongs to the notifier."""
    if not is_under(request.url.path, COMETD_PATHS):
        return None
    return NotFound(
        "this is the gateway, which serves no CometD: let the proxy in front send "
        f"{' and '.join(COMETD_PATHS)}, with all below, to a notifier"
    )


def _as_refusal(error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case StoreUnavailable():
            return BackendUnavailable(f"Redis is unavailable: {error}")
        case StateUnreadable():
            log.error("state_unreadable", reason=str(error))
            return RecordUnreadable(str(error))
        case _:
            return NotFound("there is nothing at this address; /docs lists what there is")
