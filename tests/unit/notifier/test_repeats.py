"""An event that comes again is recognised, as long as it is among the recent ones."""

from calltag.core.domain.ids import EventId
from calltag.notifier.repeats import SeenEvents


def test_repeats_are_recognised_within_the_limit() -> None:
    seen = SeenEvents(limit=2)
    first, second, third = (EventId(name) for name in "abc")
    assert [seen.first_time(each) for each in (first, second, first)] == [True, True, False]
    assert seen.first_time(third)
    assert seen.first_time(first)
