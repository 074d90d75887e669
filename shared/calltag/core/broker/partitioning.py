"""Partition function: public, and fixed for the lifetime of an installation.

`partition = int.from_bytes(sha256(id in UTF-8)[:8], "big") % partitions`. Other publishers on `calltag.ops` have to
compute the same; tests hold golden vectors."""

from hashlib import sha256

from calltag.core.broker.ports import Partition


def partition_of(key: str, partitions: int) -> Partition:
    """Return the partition of a call id (or of a user id, for operations on agents)."""
    return Partition(int.from_bytes(sha256(key.encode()).digest()[:8]) % partitions)


def hash_tag(partition: Partition) -> str:
    """Return the partition's name in routing keys, queue names and Redis hash tags: `p07`."""
    return f"p{partition:02d}"
