"""What waits is cut into batches of bounded size."""

import pytest

from calltag.core.process.limits import count_fitting


@pytest.mark.parametrize(
    ("sizes", "count"),
    [([], 0), ([5], 1), ([5, 5], 2), ([5, 6], 1), ([11, 1], 1), ([0, 0, 11], 2), ([1, 9, 0, 0], 4), ([1, 10, 1], 1)],
)
def test_as_many_as_fit_and_at_least_one(sizes: list[int], count: int) -> None:
    assert count_fitting(sizes, 10) == count
