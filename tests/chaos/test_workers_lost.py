"""Worker processes that are killed, or stall and come back: their partitions find owners, and nothing is doubled."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from calltag.core.broker.ports import Partition
from parts.command import CALLTAG
from parts.eventually import eventually
from parts.ports import free_port
from parts.processes import Program
from parts.rabbitmq import RabbitMq
from parts.workers import Crew, crew

pytestmark = pytest.mark.heavy

PARTITIONS = 8
ALL = [Partition(number) for number in range(PARTITIONS)]
PACE_S = 0.1
WORKERS = 3
KILL_S = 30.0
STALL_S = 60.0
"""A lease, and what RabbitMQ takes to miss heartbeats of two seconds."""
BACK_S = 30.0


@asynccontextmanager
async def processes(folder: Path, here: Crew) -> AsyncIterator[list[Program]]:
    """Worker processes on the installation, with the usual lease; those that are left at the end are killed."""
    amqp, redis = here.settings.amqp, here.settings.redis
    environment = {
        "CALLTAG_AMQP__URL": amqp.url.get_secret_value(),
        "CALLTAG_AMQP__PREFIX": amqp.prefix,
        "CALLTAG_AMQP__HEARTBEAT_S": "2",
        "CALLTAG_REDIS__URL": redis.url.get_secret_value(),
        "CALLTAG_REDIS__DEADLINE_S": "5",
        "CALLTAG_PARTITIONS": str(PARTITIONS),
        "CALLTAG_LOG__FORMAT": "json",
    }
    made = []
    for number in range(WORKERS):
        place = folder / f"worker-{number}"
        place.mkdir()
        made.append(Program([*CALLTAG, "worker"], place, environment | {"CALLTAG_INTERNAL__PORT": str(free_port())}))
    try:
        await asyncio.gather(*(begin(each) for each in made))
        yield made
    finally:
        for each in made:
            each.kill()


async def begin(program: Program) -> None:
    taken = program.text().count("partitions_assigned")
    await asyncio.to_thread(program.start, lambda: program.text().count("partitions_assigned") > taken)


async def even(here: Crew, workers: int, within_s: float) -> None:
    """Each partition comes to have one owner among so many living workers, as evenly as can be, and work goes on."""

    async def is_even() -> bool:
        living = await here.living()
        owners = Counter(each.worker for each in living for _ in each.held)
        owned = Counter(held.partition for each in living for held in each.held)
        return (
            len(living) == len(owners) == workers
            and sorted(owned.elements()) == ALL
            and max(owners.values()) - min(owners.values()) <= 1
        )

    await eventually(is_even, within_s)


async def goes_on(here: Crew, within_s: float) -> None:
    """Operations take effect on every partition."""
    before = [len(await here.values(each)) for each in ALL]

    async def went_on() -> bool:
        return all([len(await here.values(each)) > before[each] for each in ALL])

    await eventually(went_on, within_s)


@asynccontextmanager
async def load(here: Crew) -> AsyncIterator[None]:
    """Operations on every partition while the context is open; then all of them take effect, once and in order."""
    sent: Counter[Partition] = Counter()
    ending = asyncio.Event()

    async def send(partition: Partition) -> None:
        while not ending.is_set():
            await here.publish(partition, sent[partition])
            sent[partition] += 1
            await asyncio.sleep(PACE_S)

    async with asyncio.TaskGroup() as group:
        for partition in ALL:
            group.create_task(send(partition))
        try:
            yield
        finally:
            ending.set()
    expected = {partition: tuple(range(1, sent[partition])) for partition in ALL}

    async def done() -> bool:
        return all([len(await here.values(each)) >= len(expected[each]) for each in ALL])

    await eventually(done, within_s=30)
    assert {each: await here.values(each) for each in ALL} == expected


@pytest.mark.timeout(240)
async def test_killed_and_stalled_workers(tmp_path: Path, rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str) -> None:
    async with (
        crew(rabbitmq.url, redis_url, amqp_prefix, partitions=PARTITIONS) as here,
        processes(tmp_path, here) as workers,
        load(here),
    ):
        await even(here, WORKERS, BACK_S)
        await goes_on(here, BACK_S)

        workers[0].kill()
        await even(here, WORKERS - 1, KILL_S)
        await goes_on(here, KILL_S)
        await begin(workers[0])
        await even(here, WORKERS, BACK_S)

        # The process is there, and its connections are; it just does not move.
        workers[1].signal(signal.SIGSTOP)
        await even(here, WORKERS - 1, KILL_S)
        await goes_on(here, STALL_S)
        workers[1].signal(signal.SIGCONT)
        await even(here, WORKERS, BACK_S)
        await goes_on(here, BACK_S)
        assert all(each.running for each in workers)
        assert not any("partition_failed" in each.text() for each in workers)
