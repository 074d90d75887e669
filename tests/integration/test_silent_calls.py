"""Calls of which the switch says nothing any more are ended, whatever is wrong with others of their partition."""

from collections.abc import AsyncIterator

import pytest

from calltag.core.domain.ids import CallId
from calltag.core.domain.operations import Hold
from calltag.core.store.calls import RedisCallReader
from parts.eventually import eventually
from parts.operations import Operations, operations
from parts.rabbitmq import RabbitMq
from parts.store_commands import library


@pytest.fixture
async def forgetful(rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str) -> AsyncIterator[Operations]:
    """Calls are silent after three seconds."""
    made = operations(rabbitmq.url, redis_url, amqp_prefix, live_call_lifetime_s=3, park_after_s=0.1)
    async with made as opened:
        yield opened


async def is_over(made: Operations, call: str) -> bool:
    found = await RedisCallReader(made.parts.client, made.parts.keys, 1).call(CallId(call))
    return found is not None and found.released


async def test_a_call_that_cannot_be_ended_keeps_no_other_from_it(forgetful: Operations) -> None:
    async with forgetful.working():
        await forgetful.start("BAD", "GOOD-1", "GOOD-2")
        await forgetful.until_started("BAD", "GOOD-1", "GOOD-2")
        async with forgetful.damaged("BAD", "order"):
            for call in ("GOOD-1", "GOOD-2"):
                await eventually(lambda call=call: is_over(forgetful, call))  # type: ignore[misc]
            assert not await is_over(forgetful, "BAD")
        await eventually(lambda: is_over(forgetful, "BAD"))


async def test_a_call_behind_a_parked_operation_is_ended_all_the_same(forgetful: Operations) -> None:
    blocks = forgetful.parts.keys.blocks
    async with forgetful.working():
        await forgetful.start("C")
        await forgetful.until_started("C")
        async with forgetful.damaged("C", "order"):
            await forgetful.publish("hold", "C", Hold())
            await eventually(lambda: forgetful.metric("operations_parked_total", reason="failed_repeatedly") == 1)
        assert await library(forgetful.parts.client).hlen(blocks(0)) == 1  # type: ignore[arg-type]
        await eventually(lambda: is_over(forgetful, "C"))
        assert await library(forgetful.parts.client).hlen(blocks(0)) == 0  # type: ignore[arg-type]
