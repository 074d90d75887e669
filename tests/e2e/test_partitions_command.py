"""`calltag partitions`, as an operator uses it: who works on what, what waits, and whether all is well."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from calltag.cli.partitions import ListedPartition, listed_partitions
from calltag.core.broker.ports import Partition
from calltag.core.store.calls import RedisCallStore
from calltag.core.store.ports import NO_BLOCKS, CallBlocks, Change, Committal, Epoch
from parts.command import calltag
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.redis_modes import redis_of
from parts.workers import Crew, crew

PARTITIONS = 4
HERE = Partition(2)


@pytest.fixture
def may_commit(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Commits wait until it is set."""
    may, commit = asyncio.Event(), RedisCallStore.commit

    async def held_up(
        self: RedisCallStore,
        partition: Partition,
        epoch: Epoch,
        changes: Sequence[Change],
        events: Sequence[bytes],
        marks: CallBlocks = NO_BLOCKS,
        **more: Any,
    ) -> Committal:
        await may.wait()
        return await commit(self, partition, epoch, changes, events, marks, **more)

    monkeypatch.setattr(RedisCallStore, "commit", held_up)
    return may


async def shown(here: Crew, cwd: Path, *arguments: str) -> tuple[int, str, str]:
    """What the command does and prints."""
    amqp, redis = here.settings.amqp, here.settings.redis
    where = {
        "CALLTAG_AMQP__URL": amqp.url.get_secret_value(),
        "CALLTAG_AMQP__PREFIX": amqp.prefix,
        "CALLTAG_REDIS__URL": redis.url.get_secret_value(),
        "CALLTAG_REDIS__MODE": redis.mode,
        "CALLTAG_REDIS__SENTINEL_SERVICE": redis.sentinel_service,
        "CALLTAG_PARTITIONS": str(PARTITIONS),
    }
    done = await asyncio.to_thread(calltag, "partitions", *arguments, cwd=cwd, **where)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.timeout(240)
async def test_who_works_on_what_and_what_waits(
    tmp_path: Path, rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str, may_commit: asyncio.Event
) -> None:
    async with crew(
        rabbitmq.url, redis_url, amqp_prefix, partitions=PARTITIONS, worker={"lease_s": 2.0, "prefetch": 2}
    ) as here:

        async def become(state: str, depth: int, unacknowledged: int | None) -> ListedPartition:
            found: list[ListedPartition] = []

            async def is_so() -> bool:
                found[:] = await listed_partitions(here.settings)
                it = found[HERE]
                return {each.state for each in found} == {state} and (depth, unacknowledged) == (
                    it.depth,
                    it.unacknowledged,
                )

            await eventually(is_so)
            return found[HERE]

        worker = await here.join()
        idle = await become("owned", 0, 0)
        assert (idle.owners, idle.consumers, idle.oldest_age_ms, idle.epoch) == ([worker.made.worker], 1, 0, 0)

        for number in range(3):
            await here.publish(HERE, number)
        busy = await become("owned", 3, 2)
        assert (busy.oldest_age_ms or 0) > 0
        assert busy.epoch > 0
        code, printed, _ = await shown(here, tmp_path, "--json")
        rows = [orjson.loads(line) for line in printed.splitlines()]
        assert (code, [each["partition"] for each in rows]) == (0, list(range(PARTITIONS)))
        assert rows[HERE].keys() == asdict(busy).keys()
        assert (rows[HERE]["depth"], rows[HERE]["owners"]) == (3, [worker.made.worker])

        await here.lose(worker)
        lost = await become("unowned", 3, None)
        assert (lost.owners, lost.ready, lost.consumers, lost.oldest_age_ms) == ([], 3, 0, None)
        assert lost.epoch == busy.epoch
        code, printed, _ = await shown(here, tmp_path)
        assert (code, printed.splitlines()[1 + HERE].split()) == (
            3,
            ["2", "unowned", "-", str(lost.epoch), "3", "?", "0", "?"],
        )

        may_commit.set()
        await here.join()
        again = await become("owned", 0, 0)
        assert again.epoch > lost.epoch

        elsewhere = here.settings.amqp.model_copy(update={"prefix": "nothing-here"})
        found = await listed_partitions(here.settings.model_copy(update={"amqp": elsewhere}))
        assert {(each.state, each.good, each.depth) for each in found} == {("no queue", False, None)}


@pytest.mark.parametrize("mode", ["sentinel", "cluster"])
async def test_it_looks_into_a_store_of_several_servers(
    request: pytest.FixtureRequest, tmp_path: Path, rabbitmq: RabbitMq, amqp_prefix: str, mode: str
) -> None:
    redis = redis_of(request, mode)
    async with crew(rabbitmq.url, redis["url"], amqp_prefix, redis=redis, partitions=PARTITIONS) as here:
        worker = await here.join()
        for partition in map(Partition, range(PARTITIONS)):
            await here.publish(partition, 0)

        async def all_owned() -> bool:
            return all(
                each.epoch and each.owners == [worker.made.worker] for each in await listed_partitions(here.settings)
            )

        await eventually(all_owned)
        code, printed, _ = await shown(here, tmp_path, "--json")
        rows = [orjson.loads(line) for line in printed.splitlines()]
        assert (code, [each["state"] for each in rows]) == (0, ["owned"] * PARTITIONS)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({}, "nothing was ever started on this store"),
        ({"CALLTAG_REDIS__URL": "redis://127.0.0.1:1"}, "Redis is not usable"),
    ],
)
def test_what_cannot_be_found_out_is_said(tmp_path: Path, redis_url: str, other: dict[str, str], told: str) -> None:
    done = calltag("partitions", cwd=tmp_path, **{"CALLTAG_REDIS__URL": redis_url, **other})
    assert (done.returncode, done.stderr.startswith(f"calltag: {told}")) == (1, True), done.stderr
