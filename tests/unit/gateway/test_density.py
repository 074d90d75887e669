"""How many operations the messages hold that wait, judged by what all gateways published."""

import pytest

from calltag.core.broker.ports import PublishedCounts
from calltag.gateway.backlog import Density


def noted(*totals: tuple[int, int]) -> Density:
    made = Density()
    for total in totals:
        made.note(PublishedCounts(*total))
    return made


def test_before_anything_is_known_a_message_is_an_operation() -> None:
    assert Density().operations_in(7) == 7


def test_those_that_wait_are_those_that_were_published_last() -> None:
    density = noted((1_000, 1_000), (1_100, 7_400), (1_200, 7_500))
    assert [density.operations_in(messages) for messages in (0, 100, 200, 1_200)] == [0, 100, 6_500, 7_500]


def test_messages_of_which_it_is_not_known_when_they_came_are_as_full_as_the_latest() -> None:
    """An hour passed since the look before: among many with one operation each some are full."""
    density = noted((10, 10), (1_000_010, 1_000_010), (1_001_010, 1_064_010))
    assert density.operations_in(400) == 400 * 64


@pytest.mark.parametrize("messages", [1, 50, 100])
def test_a_store_that_lost_the_counts_begins_anew(messages: int) -> None:
    density = noted((1_000, 64_000), (100, 200))
    assert density.operations_in(messages) == 2 * messages


def test_what_did_not_grow_changes_nothing() -> None:
    density = noted((10, 20), (10, 20), (10, 20))
    assert density.operations_in(10) == 20
