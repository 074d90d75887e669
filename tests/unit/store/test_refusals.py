"""Whether a commit was refused, or the store was only away."""

from collections.abc import Sequence
from typing import cast

import pytest
import redis.asyncio
from redis.exceptions import ClusterDownError, MovedError, OutOfMemoryError, ResponseError

from calltag.core.broker.ports import Partition
from calltag.core.store.calls import RedisCallStore
from calltag.core.store.connection import Command, RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.ports import Epoch, StoreUnavailable, WriteRefused


class Answering(RedisClient):
    """A store that gives each command the same answer."""

    answer: Exception

    async def answers(self, _server: str, commands: Sequence[Command]) -> list[object]:
        return [self.answer] * len(commands)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ResponseError("WRONGTYPE"), WriteRefused),
        (OutOfMemoryError("command not allowed"), WriteRefused),
        (ClusterDownError("The cluster is down"), StoreUnavailable),
        (MovedError("1 127.0.0.1:7000"), StoreUnavailable),
    ],
)
async def test_a_cluster_that_is_down_has_refused_nothing(answer: Exception, told: type[Exception]) -> None:
    client = Answering(cast("redis.asyncio.Redis", None))
    client.__class__.answer = answer
    with pytest.raises(told) as raised:
        await RedisCallStore(client, Keys("t")).commit(Partition(0), Epoch(1), [], [])
    assert type(raised.value) is told
