"""Every setting gets to the part that it is meant for: all have values of their own here, and none is a default."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from calltag.core.backends import Backends, amqp_settings, backends
from calltag.core.bayeux.extensions import Activity
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import NodeId, Partition
from calltag.core.broker.rabbitmq import RabbitMqBroker, RabbitMqSettings
from calltag.core.contracts.stored_call import Lifetimes
from calltag.core.http.server import ServerOptions
from calltag.core.identity.http_sessions import CookieFlags, RedisHttpSessions
from calltag.core.identity.login_attempts import AttemptLimits
from calltag.core.process.lifecycle import Lifecycle
from calltag.core.process.limits import RateLimit
from calltag.core.settings import Settings, load_settings
from calltag.core.settings.sections import NotifierSettings, Worker
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.event_log import RedisEventLog
from calltag.core.store.keys import Keys
from calltag.core.store.workers import RedisWorkerRegistry
from calltag.core.strict_json import JsonLimits
from calltag.gateway.app import admitting, backlog_of, gateway_api
from calltag.gateway.call_service import CallBounds
from calltag.gateway.idempotency import RedisIdempotencyRecords
from calltag.gateway.metrics import GatewayMetrics
from calltag.gateway.operation_publisher import Replies
from calltag.gateway.requests import UserDataLimits
from calltag.gateway.routes import Api
from calltag.notifier.app import Notifier, bayeux_limits, connection_types, extensions, start_notifier
from calltag.notifier.session_manager import HomeSettings
from calltag.serve.app import server_options
from calltag.worker.app import prefetch_of, worker_parts
from calltag.worker.loss_recovery import RecentLimits
from calltag.worker.partition_runner import RetryLimits

PUBLIC_URL = "http://desk.example"


@pytest.fixture
def settings(unused_tcp_port: int, tmp_path: Path) -> Settings:
    """No RabbitMQ and no Redis is there: the parts are put together, and not used."""
    return load_settings(
        partitions=101,
        public_url=PUBLIC_URL,
        max_connections=102,
        body_deadline_s=10.1,
        max_batch_bytes=70_000,
        trusted_proxies="10.0.0.0/8, 127.0.0.1",
        amqp={
            "url": f"amqp://127.0.0.1:{unused_tcp_port}/", "prefix": "a", "heartbeat_s": 103,
            "publish_deadline_s": 10.4, "queue_max_length": 105, "delivery_limit": 106, "inbox_expiry_s": 107,
            "inbox_max_bytes": 108, "parking_max_length": 149,
        },
        redis={
            "url": f"redis://127.0.0.1:{unused_tcp_port}/0", "key_prefix": "r", "deadline_s": 10.9,
            "max_connections": 110,
        },
        embedded={"folder": tmp_path / "data"},
        gateway={
            "max_body_bytes": 111, "max_depth": 112, "max_values": 163, "max_pairs": 113, "max_user_data_bytes": 114,
            "max_key_bytes": 115, "max_wait_s": 116, "max_in_flight": 118, "idempotency_lifetime_s": 119,
            "max_waiting": 150, "max_requests": 151, "max_queued_requests": 152, "queue_deadline_s": 15.3,
            "max_backlog": 154, "max_backlog_age_s": 155, "user_operations_per_s": 15.6, "user_burst": 157,
            "address_operations_per_s": 15.8, "address_burst": 159, "max_rates": 160,
            "max_live_calls": 161, "max_calls_bytes": 162,
        },
        worker={
            "batch_limit": 120, "prefetch": 121, "prefetch_bytes": 2**30, "recent_bytes": 101_000,
            "max_call_pairs": 122, "max_call_bytes": 123,
            "remembered_operations": 124, "lease_s": 125, "live_call_lifetime_s": 126,
            "wrap_up_s": 127, "park_after_s": 147, "max_crashes": 48, "call_cache_bytes": 1_630,
        },
        events={
            "retention_s": 128, "per_user": 129, "per_user_bytes": 129_000, "per_watcher": 130,
            "per_watcher_bytes": 130_000,
        },
        notifier={
            "timeout_s": 130, "interval_ms": 131, "max_interval_s": 132, "max_sessions": 133,
            "max_sessions_per_user": 134,
            "max_sessions_per_address": 143, "handshakes_per_s": 144, "handshake_burst": 145,
            "handshakes_per_s_per_address": 149, "handshake_burst_per_address": 150, "max_handshake_addresses": 151,
            "max_refused_handshakes": 152,
            "max_subscriptions": 135, "max_queued_events": 136,
            "max_queued_bytes": 137, "max_queued_bytes_total": 153, "max_answer_bytes": 147, "max_frame_bytes": 148,
            "max_messages": 138, "max_body_bytes": 139, "max_depth": 140,
            "drain_spread_ms": 146,
            "max_server_interval_s": 143, "handshake_reconnect": True, "activity_s": 144,
            "activity": "client-server", "meta_connect_delivery_only": "websocket",
            "callback_polling": True, "permessage_deflate": True,
            "max_sessions_per_browser": 145, "multi_session_interval_ms": 146,
            "save_interval_s": 0.8, "flush_timeout_s": 0.9, "roaming_s": 147, "credential_recheck_s": 14.8,
            "lease_s": 49, "socket_deadline_s": 150,
        },
        session={
            "idle_s": 141, "lifetime_s": 142, "csrf_protection": True, "secure_cookies": True, "same_site": "none",
        },
        directory={"demo": True},
    )  # fmt: skip


@pytest.fixture
async def parts(settings: Settings) -> AsyncIterator[Backends]:
    async with backends("serve", settings) as opened:
        yield opened


@pytest.fixture
def api(parts: Backends) -> Api:
    observations = GatewayMetrics(parts.metrics)
    return gateway_api(
        parts,
        Replies(NodeId("n"), asyncio.Event()),
        observations,
        backlog_of(parts, observations),
        parts.authenticator(),
    )


async def test_the_bounds_on_load(parts: Backends, api: Api) -> None:
    submission = api.operations.publisher
    assert (submission.max_in_flight, submission.max_waiting) == (118, 150)
    assert api.service.bounds == CallBounds(161, 162)
    assert (submission.backlog.most, submission.backlog.most_age_ms) == (154, 155_000)
    rates = api.operations.rates
    assert rates is not None
    assert (rates.users.limit, rates.users.most) == (RateLimit(15.6, 157), 160)
    assert (rates.addresses.limit, rates.addresses.most) == (RateLimit(15.8, 159), 160)
    intake = admitting(FastAPI(), parts.settings.gateway, parts.metrics)
    assert (intake.most, intake.most_queued, intake.deadline_s) == (151, 152, 15.3)
    assert b"calltag_requests_in_flight 0.0" in parts.metrics.exposition()


def test_the_settings_of_rabbitmq(settings: Settings, unused_tcp_port: int) -> None:
    assert amqp_settings(settings) == RabbitMqSettings(
        url=f"amqp://127.0.0.1:{unused_tcp_port}/",
        prefix="a",
        partitions=101,
        heartbeat_s=103,
        publish_deadline_s=10.4,
        queue_max_length=105,
        delivery_limit=106,
        parking_max_length=149,
        inbox_expiry_s=107,
        inbox_max_bytes=108,
        inbox_prefetch=33_554_432 // 70_000,
    )


async def test_bus_and_store(parts: Backends, unused_tcp_port: int) -> None:
    assert isinstance(parts.broker, RabbitMqBroker)
    assert parts.broker._settings == amqp_settings(parts.settings)
    assert parts.broker._publisher._deadline_s == 10.4
    assert parts.keys == Keys("r")
    [server] = await parts.client.router.masters()
    connector: Any = server._connect
    assert (parts.client.deadline_s, server._permits._value) == (10.9, 110)
    assert (connector.options["port"], connector.timeout_s) == (unused_tcp_port, 10.9)


async def test_bus_and_store_in_one_process(settings: Settings, tmp_path: Path) -> None:
    async with backends("serve", settings, embedded=True) as parts:
        assert isinstance(parts.broker, MemoryBroker)
        assert (len(parts.broker._queues), parts.broker._queue_limit, parts.broker._parking_limit) == (101, 105, 149)
        assert parts.keys == Keys("r")
        assert parts.client.deadline_s == 10.9
        assert parts.embedded is not None
        assert parts.embedded.kept_in == tmp_path / "data"


async def test_http_sessions(parts: Backends) -> None:
    authenticator = parts.authenticator()
    sessions = authenticator._sessions
    assert isinstance(sessions, RedisHttpSessions)
    assert (sessions._prefix, sessions._idle_s, sessions._lifetime_s) == ("r", 141, 142)
    assert authenticator._cookies == parts.cookies() == CookieFlags(secure=True, same_site="none")


async def test_the_limits_of_the_gateway(api: Api) -> None:
    assert api.operations.bodies.limits == JsonLimits(111, 112, 163)
    assert api.limits == UserDataLimits(113, 114, 115)
    assert api.operations.max_wait_s == 116
    assert api.operations.publisher.max_in_flight == 118
    assert isinstance(api.operations.idempotency.records, RedisIdempotencyRecords)
    assert api.operations.idempotency.records._lifetime_s == 119


async def test_where_the_gateway_finds_calls(api: Api) -> None:
    assert isinstance(api.service.reader, RedisCallReader)
    assert (api.operations.publisher.partitions, api.service.reader._partitions) == (101, 101)
    assert api.service.base_url == PUBLIC_URL


async def test_the_limits_of_the_worker(parts: Backends) -> None:
    made = worker_parts(parts)
    assert isinstance(made._registry, RedisWorkerRegistry)
    assert (made._partitions, made._prefetch, made._registry._lease_ms) == (101, 121, 125_000)
    assert 0 < made._heartbeat_s <= 125 / 3
    worker = made._make(Partition(0))
    assert worker._batch_limit == 120
    assert worker._retry_limits == RetryLimits(147, 48)
    assert worker._owner._cache._most_bytes == 1_630
    window = worker._owner._window
    assert (window.max_batch_bytes, window.deadline_s) == (worker._max_batch_bytes, 10.9) == (70_000, 10.9)
    assert worker._owner._publisher._window is window
    assert worker._owner._recent.limits.size_bytes == 1_000
    assert (worker._owner._limits.max_pairs, worker._owner._limits.max_bytes) == (122, 123)
    assert worker._owner._limits.encoded_bytes({"é": 1}) == len('{"é":1}'.encode())
    assert worker._sweep is not None
    assert (worker._sweep.silent_ms, worker._sweep.every_s) == (126_000, 30.0)
    assert isinstance(worker._store, RedisCallStore)
    assert (worker._store._remembered_operations, worker._store._max_batch_bytes) == (124, 70_000)
    assert worker._store._lifetimes == Lifetimes(live_ms=252_000, released_ms=127_000)
    streams = worker._owner._publisher._streams
    assert isinstance(streams, RedisEventLog)
    assert streams._bounds == (128_000, 129, 129_000, 130, 130_000)
    assert streams._max_batch_bytes == 70_000


@pytest.mark.parametrize(("prefetch_bytes", "messages"), [(1, 1), (32 * 65_536, 1), (64 * 65_536, 2), (2**40, 200)])
def test_no_more_is_taken_ahead_than_has_so_many_bytes_in_all_partitions(prefetch_bytes: int, messages: int) -> None:
    assert prefetch_of(Worker(prefetch_bytes=prefetch_bytes), 32) == messages


async def test_the_limits_of_the_notifier(parts: Backends) -> None:
    limits = BayeuxLimits(
        timeout_ms=130_000,
        interval_ms=131,
        max_interval_ms=132_000,
        max_server_interval_ms=143_000,
        max_sessions=133,
        max_sessions_per_user=134,
        max_sessions_per_address=143,
        handshakes_per_s=144,
        handshake_burst=145,
        handshakes_per_s_per_address=149,
        handshake_burst_per_address=150,
        max_handshake_addresses=151,
        max_refused_handshakes=152,
        max_subscriptions=135,
        max_queued_events=136,
        max_queued_bytes=137,
        max_queued_bytes_total=153,
        max_answer_bytes=147,
        max_frame_bytes=148,
        max_messages=138,
        max_body_bytes=139,
        max_depth=140,
        drain_spread_ms=146,
    )
    assert bayeux_limits(parts.settings.notifier) == limits
    async with notifier_of(parts) as notifier:
        sessions, http = notifier.server.sessions, notifier.http
    engine, store, streams = sessions.engine, sessions.store, sessions.dispatcher.streams
    assert (engine.limits, sessions.registry.limits, sessions.dispatcher.limits) == (limits, limits, limits)
    assert engine.connection_types == ("websocket", "long-polling", "callback-polling")
    assert Activity(144_000, both_sides=True) in engine._extensions
    assert engine.advice()["maxInterval"] == 132_000
    assert (sessions.connects_only, sessions.bearer_lifetime_ms) == (("websocket",), 142_000)
    assert sessions.settings == HomeSettings(0.8, 147_000, 14_800)
    assert sessions.claims.flush_timeout_s == 0.9
    assert (sessions.lease.lease_ms, sessions.lease.store) == (49_000, store)
    assert isinstance(streams, RedisEventLog)
    assert (store._retention_ms, store._max_batch_bytes, streams._max_batch_bytes) == (128_000, 70_000, 70_000)
    assert store._node == sessions.node
    assert sessions.watches.watches.lease_ms == 600_000
    assert (http.sockets.spread_s, http.sockets.deadline_s, http.sockets.is_offered) == (0.146, 150, True)
    assert (http.body_deadline_s, http.max_body_bytes, http.authentication.csrf_protection) == (10.1, 139, True)
    assert (http.browsers.most, http.browsers.interval_ms) == (145, 146)
    assert http.browsers.flags == CookieFlags(secure=True, same_site="none")


@asynccontextmanager
async def notifier_of(parts: Backends) -> AsyncIterator[Notifier]:
    """A notifier that is put together, and whose side tasks end at once."""
    async with asyncio.TaskGroup() as group:
        life = Lifecycle(group, asyncio.Event())
        yield start_notifier(parts, life, parts.authenticator())
        life.end()


def test_the_limits_of_the_server(settings: Settings) -> None:
    assert server_options(settings) == ServerOptions(
        limits=settings.http,
        max_connections=settings.max_connections,
        body_deadline_s=settings.body_deadline_s,
        max_message_bytes=139,
        permessage_deflate=True,
        trusted_proxies=("10.0.0.0/8", "127.0.0.1"),
    )


def test_what_is_off_for_a_first_look() -> None:
    usual = NotifierSettings()
    assert bayeux_limits(usual).max_server_interval_ms is None
    assert connection_types(usual) == ("websocket", "long-polling")
    assert not any(isinstance(each, Activity) for each in extensions(usual))


def test_the_defaults_of_parts_are_those_of_the_settings() -> None:
    settings = Settings()
    gateway, worker, login = settings.gateway, settings.worker, settings.login
    assert bayeux_limits(settings.notifier) == BayeuxLimits()
    broker = amqp_settings(settings)
    assert broker == RabbitMqSettings(broker.url, inbox_prefetch=broker.inbox_prefetch)
    assert UserDataLimits() == UserDataLimits(gateway.max_pairs, gateway.max_user_data_bytes, gateway.max_key_bytes)
    assert CallBounds() == CallBounds(gateway.max_live_calls, gateway.max_calls_bytes)
    assert JsonLimits() == JsonLimits(gateway.max_body_bytes, gateway.max_depth, gateway.max_values)
    assert RetryLimits() == RetryLimits(worker.park_after_s, worker.max_crashes)
    share = worker.recent_bytes // settings.partitions
    assert RecentLimits() == RecentLimits(worker.recent_s, worker.recent_operations, share)
    assert AttemptLimits() == AttemptLimits(login.failures_per_user, login.failures_per_address, login.window_s)
