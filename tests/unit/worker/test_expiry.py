"""When silent calls are looked for, and what ends them."""

from collections.abc import Sequence
from typing import cast

from calltag.core.broker.ports import Partition
from calltag.core.domain.ids import CallId
from calltag.core.domain.operations import CallEnded, CallOperation
from calltag.core.store.ports import CallStore, StoreUnavailable
from calltag.worker.expiry import Sweep


class Store:
    """Has these silent calls, and notes what it is asked."""

    def __init__(self, *silent: str) -> None:
        self.calls: Sequence[CallId] | None = [CallId(each) for each in silent]
        self.asked: list[tuple[Partition, int, int]] = []
        self.skipped: list[int] = []

    async def silent(self, partition: Partition, silent_ms: int, most: int, skip: int = 0) -> Sequence[CallId]:
        self.skipped.append(skip)
        self.asked.append((partition, silent_ms, most))
        if self.calls is None:
            raise StoreUnavailable("away")
        return self.calls[skip : skip + most]


def sweep(store: Store, clock: list[float], most: int = 100) -> Sweep:
    made = Sweep(Partition(3), cast("CallStore", store), 60_000, 10.0, lambda: clock[0], lambda: 77, most)
    assert 5 <= made.due_in_s() <= 10
    return made


async def test_silent_calls_are_ended_when_it_is_time_to_look() -> None:
    store, clock = Store("A", "B"), [0.0]
    sweeping = sweep(store, clock)
    assert await sweeping.operations() == ()
    clock[0] = 10.0
    operations = [message.operation for message in await sweeping.operations()]
    assert [cast("CallOperation", each).call_id for each in operations] == ["A", "B"]
    assert {each.action for each in operations} == {CallEnded("silent")}
    assert {(each.sender, each.accepted_at_ms) for each in operations} == {(None, 77)}
    assert len({each.id for each in operations}) == 2
    assert store.asked == [(Partition(3), 60_000, 100)]
    assert sweeping.due_in_s() == 10


async def test_where_there_are_more_the_next_look_is_at_once_and_past_those_that_do_not_end() -> None:
    store, clock = Store("BAD", "A", "B", "C"), [0.0]
    sweeping = sweep(store, clock, most=2)
    clock[0] = 10.0
    assert len(await sweeping.operations()) == 2
    store.calls = [CallId("BAD"), CallId("B"), CallId("C")]
    sweeping.ended(1)
    assert sweeping.due_in_s() == 0
    assert len(await sweeping.operations()) == 2
    store.calls = [CallId("BAD")]
    sweeping.ended(2)
    assert sweeping.due_in_s() == 0
    assert await sweeping.operations() == []
    sweeping.ended(0)
    assert (sweeping.due_in_s(), store.skipped) == (10, [0, 1, 1])
    clock[0] = 20.0
    await sweeping.operations()
    assert store.skipped[-1] == 0


async def test_where_none_can_be_ended_all_are_looked_at_once_a_round() -> None:
    store, clock = Store("A", "B", "C", "D", "E"), [0.0]
    sweeping = sweep(store, clock, most=2)
    clock[0] = 10.0
    while not sweeping.due_in_s():
        await sweeping.operations()
        sweeping.ended(0)
    assert store.skipped == [0, 2, 4]


async def test_while_the_store_is_away_nothing_is_ended() -> None:
    store, clock = Store(), [10.0]
    sweeping = sweep(store, clock)
    clock[0] = 20.0
    store.calls = None
    assert await sweeping.operations() == ()
    assert sweeping.due_in_s() == 10
