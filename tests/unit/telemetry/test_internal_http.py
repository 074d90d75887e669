"""What operators see on the internal port."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from calltag.core import VERSION
from calltag.core.telemetry import internal_http
from calltag.core.telemetry.internal_http import Health, internal_app
from calltag.core.telemetry.metrics import Metrics


@pytest.fixture
def health() -> Health:
    return Health("worker")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(health: Health, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(internal_app(health, metrics))
    async with httpx.AsyncClient(transport=transport, base_url="http://internal") as connected:
        yield connected


async def test_alive(client: httpx.AsyncClient, health: Health) -> None:
    health.checks["broker"] = lambda: False
    answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"alive": True})


async def test_ready_while_every_check_holds(client: httpx.AsyncClient, health: Health) -> None:
    async def store() -> bool:
        return True

    health.checks["broker"] = lambda: True
    health.checks["store"] = store
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"ready": True, "checks": {"broker": True, "store": True, "running": True}},
    )


async def test_ready_without_checks(client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).json() == {"ready": True, "checks": {"running": True}}


async def test_not_ready_names_the_check(client: httpx.AsyncClient, health: Health) -> None:
    health.checks["broker"] = lambda: True
    health.checks["store"] = lambda: False
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        503,
        {"ready": False, "checks": {"broker": True, "store": False, "running": True}},
    )


async def test_a_check_that_raises_does_not_hold(client: httpx.AsyncClient, health: Health) -> None:
    def broken() -> bool:
        raise RuntimeError("no broker")

    health.checks["broker"] = broken
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]) == (503, {"broker": False, "running": True})


async def test_a_check_that_hangs_does_not_hold(
    client: httpx.AsyncClient, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(internal_http, "_CHECK_DEADLINE_S", 0.01)
    health.checks["store"] = hang
    health.checks["broker"] = lambda: True
    async with asyncio.timeout(5):
        assert (await client.get("/readyz")).json()["checks"] == {"store": False, "broker": True, "running": True}


async def test_a_check_that_is_added_while_others_are_asked_does_not_hold_yet(
    client: httpx.AsyncClient, health: Health
) -> None:
    async def add() -> bool:
        health.checks["inbox"] = lambda: True
        return True

    health.checks["store"] = add
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]) == (503, {"store": True, "inbox": False, "running": True})
    assert (await client.get("/readyz")).status_code == 200


async def test_not_ready_while_stopping(client: httpx.AsyncClient, health: Health) -> None:
    health.stopping = True
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "checks": {"running": False}})


async def test_metrics_show_the_checks(client: httpx.AsyncClient, health: Health) -> None:
    health.checks["broker"] = lambda: False
    text = (await client.get("/metrics")).text
    assert 'calltag_readiness_check{check="broker"} 0.0' in text
    assert 'calltag_readiness_check{check="running"} 1.0' in text


async def test_metrics_in_text_form(client: httpx.AsyncClient, metrics: Metrics) -> None:
    metrics.counter("tests", "Tests.").inc()
    answer = await client.get("/metrics")
    assert "calltag_tests_total 1.0" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


async def test_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/version")).json() == {"service": "worker", "version": VERSION}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/readyz", 405), ("GET", "/docs", 404), ("GET", "/livez/", 404)]
)
async def test_nothing_else_is_served(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    assert (await client.request(method, path)).status_code == status
