"""Work that nobody waits for: failures are counted and logged, and a task that never ran leaves nothing behind."""

import asyncio
import gc
import warnings
from contextlib import suppress

import pytest

from calltag.core.store.ports import StoreUnavailable
from calltag.notifier.node_presence import Background
from parts.hubs import Client, Installation


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ValueError("wrong")])
async def test_work_that_fails_is_counted(error: Exception) -> None:
    failed = list[int]()
    background = Background(lambda: failed.append(1))

    async def fail() -> None:
        raise error

    background.begin(fail())
    await background.finish()
    assert failed == [1]


async def test_a_save_that_fails_is_counted(system: Installation) -> None:
    failed = list[int]()
    system.one.background.failed = lambda: failed.append(1)
    alice = await Client().begin(system.one)
    await system.settle()
    system.one.registry.mark(system.one.registry.residents[alice.client_id])
    system.one.client.cut.append("away")
    await system.one.sessions.sync.save_marked()
    system.one.client.cut.clear()
    assert failed == [1]


async def test_work_that_is_cancelled_before_it_begins_is_closed() -> None:
    background = Background()

    async def work() -> None:
        raise AssertionError

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        task = background.begin(work())
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        del task
        gc.collect()
    assert [str(each.message) for each in told] == []
