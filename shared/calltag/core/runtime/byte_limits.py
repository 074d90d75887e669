"""Size limits of batches."""

from collections.abc import Iterable
from typing import Final

MAX_BATCH_BYTES: Final = 1_048_576
"""Default maximum size of a batch."""


def count_fitting(sizes: Iterable[int], max_bytes: int) -> int:
    """Return how many leading items fit in `max_bytes` in total; at least one, even if the first is larger."""
    count, total = 0, 0
    for size in sizes:
        total += size
        if count and total > max_bytes:
            break
        count += 1
    return count
