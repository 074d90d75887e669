"""Operations that fail: those of one call wait, in order, while others go on; what fails for too long is parked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from calltag.cli.parked import ParkedOperations, parking_lot
from calltag.core.backends import amqp_settings
from calltag.core.broker.rabbitmq import apply_topology
from calltag.core.domain.ids import CallId
from calltag.core.domain.operations import CallEnded, Hold
from calltag.core.store.calls import RedisCallReader
from calltag.core.telemetry import conditions
from parts.eventually import eventually
from parts.operations import ONLY, Operations, operations
from parts.rabbitmq import RabbitMq
from parts.store_commands import library

Make = Callable[..., AbstractAsyncContextManager[Operations]]


@pytest.fixture
def make(rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str) -> Make:
    def opened(**worker: Any) -> AbstractAsyncContextManager[Operations]:
        return operations(rabbitmq.url, redis_url, amqp_prefix, **worker)

    return opened


@pytest.fixture
async def patient(make: Make) -> AsyncIterator[Operations]:
    async with make(park_after_s=600) as made:
        yield made


@pytest.fixture
async def impatient(make: Make) -> AsyncIterator[Operations]:
    async with make(park_after_s=0.1) as made:
        yield made


@asynccontextmanager
async def lot(made: Operations) -> AsyncIterator[ParkedOperations]:
    async with parking_lot(made.parts.settings) as opened:
        yield opened


async def parked(made: Operations) -> list[tuple[str, str, bool]]:
    async with lot(made) as opened:
        found = (await opened.found()).parked
    return [(each.operation_id, each.parking.reason, each.blocks_call) for each in found]


async def until_parked(made: Operations, *names: str) -> None:
    async def there() -> bool:
        return [name for name, _, _ in await parked(made)] == list(names)

    await eventually(there)


@pytest.mark.parametrize("what", ["state", "data", "done", "order"])
async def test_a_call_that_fails_waits_in_order_and_others_go_on(patient: Operations, what: str) -> None:
    async with patient.working():
        await patient.start("C", "D")
        await patient.attach("C", 0)
        await patient.until("C", 0)
        async with patient.damaged("C", what):
            for number in (1, 2, 3):
                await patient.attach("C", number)
                await patient.attach("D", number)
            await patient.until("D", 1, 2, 3)
            await eventually(lambda: patient.metric("operations_retried_total") >= 1)
            await patient.attach("C", 4)
            await patient.attach("D", 4)
            await patient.until("D", 1, 2, 3, 4)
            await eventually(lambda: patient.metric("operations_blocked", partition="0") == 4)
        await patient.until("C", 0, 1, 2, 3, 4)
        await eventually(lambda: patient.metric("operations_blocked", partition="0") == 0)
    assert await parked(patient) == []
    assert await patient.refusals() == []


@pytest.mark.parametrize("at_once", [True, False], ids=["packed", "one by one"])
async def test_a_crowd_behind_an_operation_that_fails_does_not_have_it_parked_early(
    patient: Operations, *, at_once: bool
) -> None:
    numbers = list(range(130))
    async with patient.working():
        await patient.start("C", "D")
        await patient.until_started("C", "D")
        async with patient.damaged("C", "state"):
            if at_once:
                await asyncio.gather(*(patient.attach("C", number) for number in numbers))
            else:
                await patient.attach("C", *numbers)

            async def all_wait() -> bool:
                assert await parked(patient) == []
                return patient.metric("operations_blocked", partition="0") == len(numbers)

            await eventually(all_wait)
            retries = patient.metric("operations_retried_total")
            await eventually(lambda: patient.metric("operations_retried_total") >= retries + 2)
            await patient.attach("D", 1)
            await patient.until("D", 1)
        await patient.until("C", *numbers)
    assert await parked(patient) == []
    assert await patient.refusals() == []


async def test_a_batch_that_is_refused_leaves_nothing_half_written(patient: Operations) -> None:
    async with patient.working():
        await patient.start("C", "D")
        await patient.until_started("C", "D")
    connection = library(patient.parts.client)
    async with patient.damaged("C", "order"):
        await patient.attach("C", 1)
        async with patient.working():
            await eventually(lambda: patient.metric("operations_retried_total") >= 1)
        assert await patient.values("C") == []
        assert await connection.llen(patient.parts.keys.outbox(ONLY)) == 0


async def test_a_worker_that_dies_while_a_call_waits_leaves_its_operations_in_order(patient: Operations) -> None:
    async with patient.working():
        await patient.start("C", "D")
        await patient.until_started("C", "D")
    async with patient.damaged("C", "state"):
        await patient.attach("C", 1, 2)
        async with patient.dying():
            await eventually(lambda: patient.metric("operations_retried_total") >= 1)
            await patient.attach("D", 1)
            await patient.until("D", 1)
        await patient.attach("C", 3)
    async with patient.working():
        await patient.until("C", 1, 2, 3)
    assert await patient.values("D") == [1]


async def test_what_is_not_healed_is_parked_and_applied_once_when_it_is_replayed(impatient: Operations) -> None:
    made, reader = impatient, RedisCallReader(impatient.parts.client, impatient.parts.keys, 1)
    async with made.working():
        await made.start("C", "D")
        await made.until_started("C", "D")
        async with made.damaged("C", "data"):
            await made.attach("C", 1)
            await until_parked(made, "C-1")
        await made.attach("C", 2)
        await made.publish("end", "C", CallEnded(), None)
        await made.attach("D", 1)
        await made.until("D", 1)
        await until_parked(made, "C-1", "end")
        assert await parked(made) == [
            ("C-1", "failed_repeatedly", True),
            ("end", "behind_a_parked_one", False),
        ]
        assert await made.values("C") == []
        mark = await reader.block(CallId("C"))
        assert mark is not None
        assert (mark.operation_id, mark.reason) == ("C-1", "failed_repeatedly")
        told = await made.refusals()
        assert [(each["id"], each["code"]) for each in told] == [("C-1-not-applied", 4), ("C-2-not-applied", 4)]
        assert "operation C-1 failed before it" in told[1]["text"]
        assert made.metric("operations_parked_total", reason="failed_repeatedly") == 1
        assert made.metric("calls_blocked", partition="0") == 1

        async with lot(made) as opened:
            replayed = await opened.replay("C-1")
        assert [each.operation_id for each in replayed] == ["C-1", "end"]
        await made.until("C", 1)

        async def over() -> bool:
            call = await reader.call(CallId("C"))
            return call is not None and call.released

        await eventually(over)
        assert await reader.block(CallId("C")) is None
        assert made.metric("calls_blocked", partition="0") == 0
        for each in replayed:
            await made.parts.broker.publish_operation(ONLY, each.body, each.operation_id)
        await made.attach("D", 2)
        await made.until("D", 1, 2)
        assert await made.values("C") == [1]
        assert await parked(made) == []


async def test_what_is_replayed_too_early_is_parked_again(impatient: Operations) -> None:
    made = impatient
    async with made.working():
        await made.start("C")
        await made.until_started("C")
        async with made.damaged("C", "state"):
            await made.attach("C", 1)
            await until_parked(made, "C-1")
            async with lot(made) as opened:
                await opened.replay(None)
            await eventually(lambda: made.metric("operations_parked_total", reason="failed_repeatedly") == 2)
        await made.publish("hold", "C", Hold())
        await eventually(lambda: made.metric("operations_applied_total", operation="Hold", code="4") == 1)
        assert await parked(made) == [("C-1", "failed_repeatedly", True)]
        assert [each["id"] for each in await made.refusals()] == ["C-1-not-applied", "hold-not-applied"]


async def test_what_is_dropped_takes_the_mark_along(impatient: Operations) -> None:
    made = impatient
    async with made.working():
        await made.start("C")
        await made.until_started("C")
        async with made.damaged("C", "state"):
            await made.attach("C", 1)
            await until_parked(made, "C-1")
        async with lot(made) as opened:
            assert await opened.drop("C-1") == ["C-1"]
        await made.attach("C", 2)
        await made.until("C", 2)
    assert await parked(made) == []


async def test_while_the_store_takes_no_writes_at_all_nothing_is_parked(
    impatient: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "REPEAT_S", 0.0)
    made = impatient
    connection = library(made.parts.client)
    async with made.working():
        await made.start("C")
        await made.until_started("C")

        async def all_told() -> bool:
            return bool(await connection.llen(made.parts.keys.outbox(ONLY)) == 0)

        await eventually(all_told)
        try:
            with capture_logs() as logs:
                await connection.config_set("maxmemory", "1")
                await made.attach("C", 1)
                await eventually(lambda: sum(each["event"] == "partition_blocked" for each in logs) >= 3)
        finally:
            await connection.config_set("maxmemory", "0")
        await made.until("C", 1)
    assert await parked(made) == []


async def test_what_cannot_be_parked_waits_with_its_call_and_others_go_on(make: Make) -> None:
    async with make(park_after_s=0.1) as made:
        queue = f"{made.parts.settings.amqp.prefix}.ops.dead"
        async with made.working():
            await made.start("C", "D")
            await made.until_started("C", "D")
            broker: Any = made.parts.broker
            publisher = broker._publisher
            async with made.damaged("C", "state"):
                channel = await broker._publishing.open_channel(confirms=False)
                await channel.queue_delete(queue)
                with capture_logs() as logs:
                    await made.attach("C", 1)
                    await eventually(lambda: any(each["event"] == "park_failed" for each in logs))
                    await made.attach("D", 1)
                    await made.until("D", 1)
                await apply_topology(amqp_settings(made.parts.settings))
                await until_parked(made, "C-1")
            assert publisher is broker._publisher


async def test_the_sender_of_what_cannot_be_read_is_told_where_the_message_names_it(impatient: Operations) -> None:
    made = impatient
    later = {"v": 2, "operation": {"id": "o", "sender": "alice", "call_id": "C", "action": {"name": "Teleport"}}}
    async with made.working():
        await made.parts.broker.publish_operation(ONLY, orjson.dumps(later), "o")
        await made.parts.broker.publish_operation(ONLY, b"SECRET", "junk")
        await until_parked(made, "o", "junk")
        async with lot(made) as opened:
            first, second = (await opened.found()).parked
        assert not first.parking.detail.endswith("its sender is not known")
        assert second.parking.detail.endswith("its sender is not known")
        assert "SECRET" not in second.parking.detail
        [told] = await made.refusals()
        assert (told["id"], told["operation_name"], told["code"]) == ("o-not-applied", "Teleport", 4)


async def test_looking_changes_neither_what_is_parked_nor_its_order(impatient: Operations) -> None:
    made = impatient
    names = [f"junk-{number}" for number in range(12)]
    async with made.working():
        for name in names:
            await made.parts.broker.publish_operation(ONLY, b"junk", name)
        await until_parked(made, *names)
    for _ in range(10):
        assert [name for name, _, _ in await parked(made)] == names


async def test_each_operation_of_one_message_goes_its_own_way(patient: Operations) -> None:
    """They come again together, those that are done as well, when a worker dies; what is none is parked alone."""
    broker = patient.parts.broker
    async with patient.working():
        await patient.start("C", "D")
        await patient.until_started("C", "D")
    async with patient.damaged("C", "state"):
        await asyncio.gather(
            *(patient.attach(call, number) for number in (1, 2, 3) for call in ("C", "D")),
            broker.publish_operation(ONLY, b"{}", "junk"),
            *(patient.attach(call, 4) for call in ("C", "D")),
        )
        assert 0 < await broker.depth(ONLY) < 9, "several come in one message"
        for deaths in (1, 2, 3):
            async with patient.dying():
                await eventually(lambda deaths=deaths: patient.metric("operations_retried_total") >= deaths)  # type: ignore[misc]
                await patient.until("D", 1, 2, 3, 4)
    async with patient.working():
        await patient.until("C", 1, 2, 3, 4)

        async def nothing_waits() -> bool:
            return await broker.depth(ONLY) == 0

        await eventually(nothing_waits)
    assert await patient.values("D") == [1, 2, 3, 4]
    assert {each[:2] for each in await parked(patient)} == {("junk", "not_an_operation")}


async def test_what_came_back_since_workers_ended_is_done_at_once(patient: Operations) -> None:
    """It came in one message, and nobody died of that."""
    connection, keys = library(patient.parts.client), patient.parts.keys
    async with patient.working():
        await patient.start("C", "D")
        await patient.until_started("C", "D")
    began = int(await connection.get(keys.position(ONLY)) or 0)
    await asyncio.gather(*(patient.attach(call, number) for number in range(30) for call in ("C", "D")))
    for _ in range(4):
        async with patient.parts.broker.partition(ONLY, 100) as consumer:
            await consumer.batch(10)
    async with patient.working():
        await patient.until("D", *range(30))
        await patient.until("C", *range(30))
    assert int(await connection.get(keys.position(ONLY)) or 0) - began < 10
    assert not await connection.exists(keys.attempts(ONLY))
