"""What the naive services agree on."""

import os
import zlib

AMQP_URL = os.environ.get("NAIVE_AMQP_URL", "amqp://guest:guest@127.0.0.1/")
REDIS_URL = os.environ.get("NAIVE_REDIS_URL", "redis://127.0.0.1/0")
PARTITIONS = int(os.environ.get("NAIVE_PARTITIONS", "8"))
EVENTS = "naive.events"
QUEUE_ARGUMENTS = {"x-queue-type": "quorum", "x-single-active-consumer": True}


def queue_names(partitions: int) -> list[str]:
    """The queues of all partitions."""
    return [f"naive.ops.{number}" for number in range(partitions)]


QUEUES = queue_names(PARTITIONS)


def queue_of(call_id: str) -> str:
    """The queue of the partition that the call is in."""
    return QUEUES[zlib.crc32(call_id.encode()) % PARTITIONS]


def call_key(call_id: str) -> str:
    return f"naive:call:{call_id}"


def session_key(token: str) -> str:
    return f"naive:session:{token}"
