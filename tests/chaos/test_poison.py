"""An operation that kills whoever works on it is parked; those around it are not."""

import asyncio
import sys
from pathlib import Path

import pytest

from calltag.cli.parked import parking_lot
from calltag.core.domain.operations import AttachUserData
from parts.eventually import eventually
from parts.operations import Operations, operations
from parts.processes import Program
from parts.rabbitmq import RabbitMq
from parts.system import calltag_program

FRAGILE = Path(__file__).parents[1] / "parts" / "fragile.py"
MOST_DEATHS = 6


def worker_of(made: Operations, folder: Path) -> Program:
    settings = made.parts.settings
    environment = {
        "CALLTAG_AMQP__URL": settings.amqp.url.get_secret_value(),
        "CALLTAG_AMQP__PREFIX": settings.amqp.prefix,
        "CALLTAG_REDIS__URL": settings.redis.url.get_secret_value(),
        "CALLTAG_PARTITIONS": "1",
        "CALLTAG_INTERNAL__PORT": "0",
        "CALLTAG_WORKER__LEASE_S": "0.5",
        "CALLTAG_WORKER__MAX_CRASHES": "1",
    }
    program = calltag_program(folder, environment, "worker")
    return Program([sys.executable, str(FRAGILE), "worker"], program.folder, program.environment)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("together", [False, True])
async def test_what_kills_workers_is_parked_and_nothing_else(
    rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str, tmp_path: Path, *, together: bool
) -> None:
    """That holds for those as well that are in one message with it."""
    async with operations(rabbitmq.url, redis_url, amqp_prefix) as made:
        publishing = (
            made.start("C"),
            made.start("D"),
            made.attach("D", 1),
            made.attach("D", 2),
            made.publish("poison", "C", AttachUserData((("poison", 1),))),
            made.attach("C", 1),
            made.attach("D", 3),
        )
        if together:
            await asyncio.gather(*publishing)
        else:
            for each in publishing:
                await each
        worker, deaths = worker_of(made, tmp_path / "fragile"), 0

        async def done_or_dead() -> bool:
            return not worker.running or await made.values("D") == [1, 2, 3]

        try:
            while await made.values("D") != [1, 2, 3]:
                assert deaths <= MOST_DEATHS
                worker.start(lambda: True)
                await eventually(done_or_dead, within_s=60)
                deaths += not worker.running

            async def both_told() -> bool:
                return len(await made.refusals()) == 2

            await eventually(both_told)
        finally:
            worker.kill()
        # Two until the message is looked at apart, one until that is known, if it has more, and one until it is known.
        assert deaths == (4 if together else 3)
        async with parking_lot(made.parts.settings) as lot:
            [parked] = (await lot.found()).parked
        assert (parked.operation_id, parked.parking.reason, parked.blocks_call) == ("poison", "crashes_workers", True)
        assert [each["id"] for each in await made.refusals()] == ["poison-not-applied", "C-1-not-applied"]
        assert await made.values("C") == []
