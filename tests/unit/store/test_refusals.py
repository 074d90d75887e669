"""Whether a commit was refused, or the store was only away."""

from collections.abc import Sequence

import pytest
from redis.exceptions import ClusterDownError, MovedError, OutOfMemoryError, ResponseError

from calltag.core.broker.ports import Partition
from calltag.core.store.calls import RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.connection import RedisServer, Request
from calltag.core.store.keys import Keys
from calltag.core.store.ports import Epoch, StoreUnavailable, WriteRefused
from calltag.core.store.routing import SingleRouter


class Answering(RedisServer):
    """A server that gives each command the same answer."""

    def __init__(self, answer: Exception) -> None:
        self._answer = answer

    async def exchange(self, requests: Sequence[Request]) -> None:
        for each in requests:
            each.replies = [self._answer]


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
    client = RedisClient(SingleRouter(Answering(answer)))
    with pytest.raises(told) as raised:
        await RedisCallStore(client, Keys("t")).commit(Partition(0), Epoch(1), [], [])
    assert type(raised.value) is told
