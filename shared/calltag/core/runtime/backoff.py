"""Exponential backoff with jitter."""

import random
from collections.abc import Iterator


def backoff_s(first_s: float, most_s: float) -> Iterator[float]:
    """Yield delays in seconds without end: doubling up to `most_s`, each shortened at random by up to a half, so that
    clients that failed together do not retry together."""
    delay_s = first_s
    while True:
        yield delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, protects nothing
        delay_s = min(delay_s * 2, most_s)
