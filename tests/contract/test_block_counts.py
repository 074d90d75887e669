"""The blocks of calls, and their gauge while nothing is committed."""

import pytest

from calltag.core.broker.ports import Partition, partition_of
from calltag.core.domain.ids import OperationId
from calltag.core.store.calls import RedisCallBlocks
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.telemetry.metrics import Metrics
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.reports import BlockCounts
from parts.store_commands import library

KEYS = Keys("calltag-test")
ONE, TWO = Partition(0), Partition(1)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def shown(metrics: Metrics, partition: Partition) -> float | None:
    return metrics.registry.get_sample_value("calltag_calls_blocked", {"partition": str(partition)})


async def test_marks_that_come_and_go_without_a_commit_are_shown(client: RedisClient, metrics: Metrics) -> None:
    counts = BlockCounts(RedisCallBlocks(client, KEYS, 2), WorkerMetrics(metrics))
    await counts.look(lambda: ())
    await library(client).hset(KEYS.blocks(ONE), mapping={"call:C": "{}", "call:D": "{}"})
    await counts.look(lambda: {ONE, TWO})
    assert (shown(metrics, ONE), shown(metrics, TWO)) == (2, 0)
    await library(client).hdel(KEYS.blocks(ONE), "call:C", "call:D")
    await counts.look(lambda: {ONE, TWO})
    assert (shown(metrics, ONE), shown(metrics, TWO)) == (0, 0)


async def test_a_partition_that_was_left_meanwhile_shows_nothing(client: RedisClient, metrics: Metrics) -> None:
    await library(client).hset(KEYS.blocks(ONE), "call:C", "{}")
    owned = iter([{ONE}, set[Partition]()])
    await BlockCounts(RedisCallBlocks(client, KEYS, 2), WorkerMetrics(metrics)).look(lambda: next(owned))
    assert shown(metrics, ONE) is None


@pytest.mark.parametrize(
    "raw", ["no JSON", "7", "{}", '{"operation_id": "o"}', '{"operation_id": 7, "reason": "r", "at_ms": 1}']
)
async def test_a_block_that_cannot_be_decoded_can_be_removed(client: RedisClient, raw: str) -> None:
    blocks = RedisCallBlocks(client, KEYS, 2)
    await library(client).hset(KEYS.blocks(partition_of("C", 2)), "call:C", raw)
    [block] = (await blocks.all()).values()
    assert not await blocks.clear("call:C", OperationId("other"))
    assert await blocks.clear("call:C", block.operation_id)
    assert await blocks.all() == {}
