"""A worker that reaches the store and not the broker leaves its partitions to those that reach both."""

from collections.abc import Iterator

import pytest

from calltag.core.broker.ports import Partition
from parts.eventually import eventually
from parts.proxy import Proxy
from parts.rabbitmq import RabbitMq
from parts.workers import Crew, RunningWorker, crew

pytestmark = pytest.mark.timeout(120)
PARTITIONS = 4
ALL = frozenset(map(Partition, range(PARTITIONS)))
WORKER = {"lease_s": 2.0}


@pytest.fixture
def proxy(rabbitmq: RabbitMq) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", rabbitmq.port) as forwarding:
        yield forwarding
        forwarding.close_after(None)


def part(proxy: Proxy) -> None:
    """End all connections, and close new ones at once."""
    proxy.close_after(0)
    proxy.cut()


async def shares(here: Crew, *workers: RunningWorker) -> None:
    """Wait until each has its share, and consumes it."""

    async def whole() -> bool:
        owners = await here.owners()
        return owners is not None and set(owners.values()) == {each.made.worker for each in workers}

    await eventually(whole, within_s=60)


@pytest.mark.parametrize("first", [True, False], ids=["the first one", "the last one"])
async def test_who_is_cut_off_from_the_broker_leaves_and_comes_back(
    rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str, proxy: Proxy, *, first: bool
) -> None:
    through = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
    async with crew(rabbitmq.url, redis_url, amqp_prefix, partitions=PARTITIONS, worker=WORKER) as here:
        cut, sound = [await here.join(through if each == first else None) for each in (True, False)][
            :: 1 if first else -1
        ]
        await shares(here, cut, sound)
        part(proxy)
        await eventually(lambda: sound.made.partitions == ALL and sound.made.all_consumed(), within_s=60)
        for partition in ALL:
            await here.publish(partition, 0)
            await here.publish(partition, 1)

        async def worked_on() -> bool:
            return all([await here.values(partition) == (1,) for partition in ALL])

        await eventually(worked_on)
        assert (cut.made.partitions, cut.made.all_consumed()) == (frozenset(), False)
        assert [each.worker for each in await here.living()] == [sound.made.worker]
        proxy.close_after(None)
        await shares(here, cut, sound)


async def test_who_is_cut_off_comes_back_where_the_others_are_gone(
    rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str, proxy: Proxy
) -> None:
    through = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
    async with crew(rabbitmq.url, redis_url, amqp_prefix, partitions=PARTITIONS, worker=WORKER) as here:
        cut, sound = await here.join(through), await here.join()
        await shares(here, cut, sound)
        part(proxy)
        await eventually(lambda: sound.made.partitions == ALL, within_s=60)
        await here.lose(sound)
        # As far as it knows, the broker is away for all.
        await eventually(lambda: cut.made.partitions == ALL, within_s=60)
        proxy.close_after(None)
        await shares(here, cut)
