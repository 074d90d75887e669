"""What comes for a user whose session is just arriving is not lost."""

from typing import cast

from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.residence import Residence
from calltag.notifier.cometd.side_tasks import SideTasks


def residence() -> Residence:
    """One whose store is not asked for anything."""
    return Residence(cast("RedisCometdSessions", None), Local(), SideTasks())


async def test_an_event_that_comes_before_the_session_is_noticed() -> None:
    users = residence()
    async with users.arrival("alice"):
        users.overlook("alice")
        assert users.has_overlooked("alice")
        assert not users.has_overlooked("bob")


async def test_what_was_overlooked_is_forgotten_when_the_last_session_has_arrived() -> None:
    users = residence()
    async with users.arrival("alice"):
        async with users.arrival("alice"):
            users.overlook("alice")
        assert users.has_overlooked("alice")
    assert not users.has_overlooked("alice")


async def test_an_event_for_a_user_who_does_not_arrive_is_nothing() -> None:
    users = residence()
    users.overlook("alice")
    async with users.arrival("alice"):
        assert not users.has_overlooked("alice")
