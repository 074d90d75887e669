"""The worker between an in-process bus and store: what a whole system rarely shows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from calltag.core.backends import Backends, backends
from calltag.core.bus.memory import MemoryBus
from calltag.core.bus.ports import Partition
from calltag.core.domain.ids import CallId, OperationId, UserId
from calltag.core.domain.operations import AttachUserData, CallOperation
from calltag.core.settings import load_settings
from calltag.core.wire.messages import OPERATION, OperationMessage
from calltag.worker.app import worker_parts
from parts.eventually import eventually


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
    repeated = parts.metrics.operations_repeated.labels("AttachUserData")
    with capture_logs() as lines:
        running = asyncio.create_task(worker_parts(parts).run(stop))
        for _ in range(3):
            await parts.bus.publish_operation(Partition(0), body, "o")
        try:
            await eventually(lambda: repeated._value.get() == 2)
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
    bus = parts.bus
    assert isinstance(bus, MemoryBus)
    junk = [b"", b"{", b"[]", b"\xff\xfe", orjson.dumps({"operation": {"kind": "NoSuch"}})]
    for number, body in enumerate(junk):
        await bus.publish_operation(Partition(0), body, f"junk-{number}")
    stop = asyncio.Event()
    running = asyncio.create_task(worker_parts(parts).run(stop))
    try:
        await eventually(lambda: len(bus.parked) == len(junk))
    finally:
        stop.set()
        await running
    assert [each.body for each in bus.parked] == junk
    assert {each.parking.reason for each in bus.parked} == {"not_an_operation"}
    assert all(each.parking.detail.endswith("its sender is not known") for each in bus.parked)
