"""The worker between an in-process bus and store: what a whole system rarely shows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from calltag.core.backends import Backends, backends
from calltag.core.bus.memory import MemoryBus
from calltag.core.bus.ports import Partition
from calltag.core.settings import load_settings
from calltag.worker.app import worker_parts
from parts.eventually import eventually


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Backends]:
    settings = load_settings(partitions=1, directory={"demo": True}, embedded={"folder": tmp_path})
    async with backends("worker", settings, embedded=True) as opened:
        yield opened


async def test_what_is_no_operation_is_set_aside_and_the_rest_goes_on(parts: Backends) -> None:
    bus = parts.bus
    assert isinstance(bus, MemoryBus)
    junk = [b"", b"{", b"[]", b"\xff\xfe", orjson.dumps({"operation": {"kind": "NoSuch"}})]
    for number, body in enumerate(junk):
        await bus.publish_operation(Partition(0), body, f"junk-{number}")
    stop = asyncio.Event()
    running = asyncio.create_task(worker_parts(parts).run(stop))
    try:
        await eventually(lambda: len(bus.rejected) == len(junk))
    finally:
        stop.set()
        await running
    assert [delivery.body for delivery in bus.rejected] == junk
