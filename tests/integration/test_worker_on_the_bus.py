"""The worker between an in-process broker and store: what a whole system rarely shows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
import pytest
from structlog.testing import capture_logs

from calltag.core.backends import Backends, backends
from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import BrokerInterrupted, Partition, PartitionConsumer
from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.domain.ids import CallId, OperationId, UserId
from calltag.core.domain.operations import AttachUserData, CallOperation
from calltag.core.process.lifecycle import Lifecycle
from calltag.core.settings import load_settings
from calltag.core.telemetry.internal_http import internal_app
from calltag.worker.app import run_worker, worker_parts
from parts.eventually import eventually


def repeated(parts: Backends) -> float:
    labels = {"operation": "AttachUserData"}
    return parts.metrics.registry.get_sample_value("calltag_operations_repeated_total", labels) or 0.0


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Backends]:
    settings = load_settings(partitions=1, directory={"demo": True}, embedded={"folder": tmp_path})
    async with backends("worker", settings, embedded=True) as opened:
        yield opened


async def test_a_refusal_is_logged_once_however_often_the_operation_comes(parts: Backends) -> None:
    action = AttachUserData((("a", "secret"),))
    operation = CallOperation(OperationId("o"), CallId("none"), action, accepted_at_ms=1, sender=UserId("alice"))
    body = OPERATION.encode(OperationMessage(operation=operation))
    stop = asyncio.Event()
    with capture_logs() as lines:
        running = asyncio.create_task(worker_parts(parts).run(stop))
        for _ in range(3):
            await parts.broker.publish_operation(Partition(0), body, "o")
        try:
            await eventually(lambda: repeated(parts) == 2)
        finally:
            stop.set()
            await running
    assert [line for line in lines if line["event"] == "operation_refused"] == [
        {
            "event": "operation_refused",
            "log_level": "info",
            "operation_id": "o",
            "operation": "AttachUserData",
            "call_id": "none",
            "code": 6,
        }
    ]


async def test_what_is_no_operation_is_set_aside_and_the_rest_goes_on(parts: Backends) -> None:
    broker = parts.broker
    assert isinstance(broker, MemoryBroker)
    junk = [b"", b"{", b"[]", b"\xff\xfe", orjson.dumps({"operation": {"kind": "NoSuch"}})]
    for number, body in enumerate(junk):
        await broker.publish_operation(Partition(0), body, f"junk-{number}")
    stop = asyncio.Event()
    running = asyncio.create_task(worker_parts(parts).run(stop))
    try:
        await eventually(lambda: len(broker.parked) == len(junk))
    finally:
        stop.set()
        await running
    assert [each.body for each in broker.parked] == junk
    assert {each.parking.reason for each in broker.parked} == {"not_an_operation"}
    assert all(each.parking.detail.endswith("its sender is not known") for each in broker.parked)


async def test_operators_see_which_partitions_a_worker_should_consume_and_does(
    parts: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = httpx.ASGITransport(internal_app(parts.health, parts.metrics))
    allowed = asyncio.Event()
    open_partition = parts.broker.partition

    @asynccontextmanager
    async def closed(partition: Partition, prefetch: int) -> AsyncIterator[PartitionConsumer]:
        if not allowed.is_set():
            raise BrokerInterrupted("not yet")
        async with open_partition(partition, prefetch) as consumer:
            yield consumer

    monkeypatch.setattr(parts.broker, "partition", closed)
    stop = asyncio.Event()
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://internal") as http,
        asyncio.TaskGroup() as group,
    ):
        life = Lifecycle(group, asyncio.Event())
        life.supervise("worker-service", run_worker(parts, life, stop))

        async def sees(owned: list[int], consumed: list[int], missing: list[int]) -> None:
            async def seen() -> bool:
                told = (await http.get("/readyz?verbose")).json()
                details = told.get("details", {}).get("partitions", {})
                return told["checks"].get("partitions") is (owned == consumed) and [
                    details.get(name) for name in ("owned", "consumed", "missing")
                ] == [owned, consumed, missing]

            await eventually(seen)

        await sees([0], [], [0])
        assert "calltag_partitions_not_consumed 1.0" in (await http.get("/metrics")).text
        assert "details" not in (await http.get("/readyz")).json()
        allowed.set()
        await sees([0], [0], [])
        text = (await http.get("/metrics")).text
        assert "calltag_partitions_not_consumed 0.0" in text
        assert "calltag_oldest_operation_seconds 0.0" in text
        life.stop.set()
        stop.set()
