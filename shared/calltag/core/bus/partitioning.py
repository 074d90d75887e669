"""Which partition a call belongs to: a published function that never changes within an installation.

`partition = int.from_bytes(sha256(id in UTF-8)[:8], "big") % partitions`. Whoever publishes on `calltag.ops` without
calltag has to compute the same; tests hold golden vectors.
"""

from functools import lru_cache
from hashlib import sha256
from typing import Final

from calltag.core.bus.ports import Partition

_REMEMBERED: Final = 20_000
_USUAL_LENGTH: Final = 64


def partition_of(key: str, partitions: int) -> Partition:
    """The partition of a call's id (or a user's, for what concerns an agent)."""
    return _known(key, partitions) if len(key) <= _USUAL_LENGTH else _computed(key, partitions)


@lru_cache(maxsize=_REMEMBERED)
def _known(key: str, partitions: int) -> Partition:
    """A call is operated on again and again."""
    return _computed(key, partitions)


def _computed(key: str, partitions: int) -> Partition:
    return Partition(int.from_bytes(sha256(key.encode()).digest()[:8]) % partitions)


def hash_tag(partition: Partition) -> str:
    """Its name in routing keys, queue names and Redis hash tags: `p07`."""
    return f"p{partition:02d}"
