"""Cutting what waits into batches of bounded size."""

from collections.abc import Iterable
from typing import Final

MAX_BATCH_BYTES: Final = 1_048_576
"""Bytes of one batch, where no setting says otherwise."""


def count_fitting(sizes: Iterable[int], max_bytes: int) -> int:
    """How many of the first items have at most so many bytes together; one, if the first alone has more."""
    count, total = 0, 0
    for size in sizes:
        total += size
        if count and total > max_bytes:
            break
        count += 1
    return count
