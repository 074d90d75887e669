"""Several operations in one message: how they are put together and taken apart, and who waits for what."""

import asyncio
from collections.abc import Mapping

import pytest
from aio_pika.abc import HeadersType
from hypothesis import given
from hypothesis import strategies as st

from calltag.core.broker.ports import BrokerRefused, BrokerUnavailable, PublishedCounts
from calltag.core.broker.rabbitmq.operation_batch import (
    MOST,
    MOST_BYTES,
    MessageWindow,
    Packing,
    Part,
    number_of_parts,
    packed,
    unpacked,
)
from parts.eventually import eventually, turns

NAMES = st.text("0123456789abcdef-", min_size=1, max_size=40)
PARTS = st.lists(st.builds(Part, st.binary(max_size=60), NAMES), min_size=1, max_size=8)


@given(PARTS)
def test_what_is_put_together_is_taken_apart_again(parts: list[Part]) -> None:
    body, name, headers = packed(parts)
    assert list(unpacked(body, name, headers or {})) == parts
    assert number_of_parts(headers or {}) == len(parts)


def test_one_alone_is_a_message_like_any_other() -> None:
    assert packed([Part(b"{}", "a")]) == (b"{}", "a", None)


def test_several_are_a_list() -> None:
    body, name, _ = packed([Part(b'{"a":1}', "a"), Part(b'{"b":2}', "b")])
    assert (body, name) == (b'[{"a":1},{"b":2}]', "a")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"calltag-lengths": "2,2"},
        {"calltag-lengths": "2,x", "calltag-names": "a,b"},
        {"calltag-lengths": "2,3", "calltag-names": "a,b"},
        {"calltag-lengths": "2,2", "calltag-names": "a"},
        {"calltag-lengths": "-1,5", "calltag-names": "a,b"},
        {"calltag-lengths": 4, "calltag-names": "a,b"},
    ],
)
def test_headers_that_do_not_fit_leave_it_one_message(headers: Mapping[str, int | str]) -> None:
    body = b"[{},{}]"
    assert list(unpacked(body, "a", dict(headers))) == [Part(body, "a")]


class Broker:
    """Confirms one message when it is told to."""

    def __init__(self) -> None:
        self.messages: list[list[str]] = []
        self._confirm = asyncio.Event()
        self._failure: Exception | None = None

    async def publish(self, body: bytes, name: str, headers: HeadersType | None) -> None:
        self.messages.append([part.name for part in unpacked(body, name, headers or {})])
        await self._confirm.wait()
        self._confirm.clear()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def confirm(self, failure: Exception | None = None) -> None:
        self._failure = failure
        self._confirm.set()
        await turns()


def added(packing: Packing, *names: str, size: int = 2) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(packing.add(Part(b"x" * size, name))) for name in names]


async def test_what_comes_while_a_message_is_under_way_goes_together_in_the_next() -> None:
    broker = Broker()
    packing = Packing(broker.publish)
    first = added(packing, "a")
    await turns()
    later = added(packing, "b", "c")
    await turns()
    assert broker.messages == [["a"]]
    await broker.confirm()
    assert first[0].done()
    assert broker.messages == [["a"], ["b", "c"]]
    assert not any(each.done() for each in later)
    await broker.confirm()
    assert all(each.done() for each in later)
    assert packing.published == PublishedCounts(messages=2, operations=3)


async def test_what_was_published_is_counted_in_messages_and_in_operations() -> None:
    broker = Broker()
    packing = Packing(broker.publish)
    assert packing.published == PublishedCounts()
    tasks = added(packing, *(f"o{number}" for number in range(2 * MOST)))
    tasks += added(packing, "last")
    for _ in range(3):
        await turns()
        await broker.confirm()
    assert all(each.done() for each in tasks)
    assert packing.published == PublishedCounts(messages=3, operations=2 * MOST + 1)


async def test_a_message_is_bounded_in_number_and_bytes() -> None:
    broker = Broker()
    packing = Packing(broker.publish)
    tasks = added(packing, *(f"o{number}" for number in range(MOST + 1)))
    tasks += added(packing, "large-1", "large-2", size=MOST_BYTES // 2)
    tasks += added(packing, "huge", size=MOST_BYTES * 2)
    while not all(each.done() for each in tasks):
        await turns()
        await broker.confirm()
    assert [len(each) for each in broker.messages] == [MOST, 2, 1, 1]
    assert broker.messages[-2:] == [["large-2"], ["huge"]]


async def test_what_fits_to_the_byte_goes_in_one_message_and_a_byte_more_does_not() -> None:
    assert (
        len(packed([Part(b"x" * (MOST_BYTES // 2 - 2), "a"), Part(b"y" * (MOST_BYTES // 2 - 1), "b")])[0]) == MOST_BYTES
    )
    for size, expected in ((MOST_BYTES // 2 - 1, [["a", "b"]]), (MOST_BYTES // 2, [["a"], ["b"]])):
        broker = Broker()
        packing = Packing(broker.publish)
        tasks = added(packing, "a", size=MOST_BYTES // 2 - 2) + added(packing, "b", size=size)
        while not all(each.done() for each in tasks):
            await turns()
            await broker.confirm()
        assert broker.messages == expected


async def test_where_one_is_not_confirmed_those_behind_do_not_wait_as_long_again() -> None:
    broker = Broker()
    packing = Packing(broker.publish)
    first = added(packing, "a")
    await turns()
    behind = added(packing, "b")
    await turns()
    await broker.confirm(BrokerUnavailable("no confirm"))
    assert isinstance(first[0].exception(), BrokerUnavailable)
    assert isinstance(behind[0].exception(), BrokerUnavailable)
    assert broker.messages == [["a"]]
    again = added(packing, "c")
    await turns()
    await broker.confirm()
    assert again[0].exception() is None


@pytest.mark.parametrize("error", [BrokerRefused("full"), ValueError("unexpected")])
async def test_nothing_overtakes_what_was_refused(error: Exception) -> None:
    """Of one request, what came first would otherwise take effect last, when it is sent again."""
    broker = Broker()
    packing = Packing(broker.publish)
    tasks = added(packing, *(f"o{number}" for number in range(MOST + 1)))
    await turns()
    await broker.confirm(error)
    await broker.confirm()
    assert [len(each) for each in broker.messages] == [MOST]
    assert all(each.exception() is error for each in tasks)
    again = added(packing, "again")
    await turns()
    await broker.confirm()
    assert again[0].exception() is None


async def test_where_confirms_are_slow_nothing_waits_for_long_and_nothing_overtakes() -> None:
    broker = Broker()
    packing = Packing(broker.publish)
    first = added(packing, "a")
    await turns()
    late = added(packing, "b", "c")
    await turns()
    packing.patience_s = 0.0
    late += added(packing, "d")
    await turns()
    await broker.confirm()
    assert first[0].exception() is None
    assert all(isinstance(each.exception(), BrokerUnavailable) for each in late)
    assert broker.messages == [["a"]]
    packing.patience_s = 1.5
    again = added(packing, "e")
    await turns()
    await broker.confirm()
    assert again[0].exception() is None


async def test_an_end_in_the_middle_of_a_message_is_told_to_all_who_wait() -> None:
    packing = Packing(Broker().publish)
    tasks = added(packing, "sent", "waiting")
    await turns()
    assert packing._sending is not None
    packing._sending.cancel()
    await asyncio.wait(tasks, timeout=5)
    assert all(isinstance(each.exception(), BrokerUnavailable) for each in tasks)


async def test_what_nobody_waits_for_any_more_is_not_sent() -> None:
    broker = Broker()
    packing = Packing(broker.publish)
    first = added(packing, "a")
    await turns()
    left, stays = added(packing, "b", "c")
    await turns()
    left.cancel()
    await turns()
    await broker.confirm()
    await broker.confirm()
    assert broker.messages == [["a"], ["c"]]
    assert first[0].done()
    assert stays.exception() is None


async def test_many_partitions_make_larger_messages_and_not_more() -> None:
    brokers, window = [Broker() for _ in range(3)], MessageWindow(most=2, patience_s=60)
    packings = [Packing(broker.publish, window=window) for broker in brokers]
    first = [task for packing in packings for task in added(packing, "a")]
    await turns()
    assert [broker.messages for broker in brokers] == [[["a"]], [["a"]], []]
    later = [task for packing in packings for task in added(packing, "b", "c")]
    await turns()
    await brokers[0].confirm()
    # The partition that waited comes first, with all that has gathered.
    assert [broker.messages for broker in brokers] == [[["a"]], [["a"]], [["a", "b", "c"]]]
    for broker in (brokers[2], brokers[1], brokers[0], brokers[1]):
        await broker.confirm()
    assert [broker.messages[1:] for broker in brokers[:2]] == [[["b", "c"]], [["b", "c"]]]
    await asyncio.gather(*first, *later)


async def test_a_partition_without_a_leader_delays_no_other() -> None:
    stuck, well, window = Broker(), Broker(), MessageWindow(most=1, patience_s=0.05)
    waiting = added(Packing(stuck.publish, window=window), "a")
    await turns()
    packing = Packing(well.publish, window=window)
    for number in range(3):
        [sent] = added(packing, f"o{number}")
        await eventually(lambda number=number: len(well.messages) == number + 1)  # type: ignore[misc]
        await well.confirm()
        await sent
    assert stuck.messages == [["a"]]
    await stuck.confirm()
    await asyncio.gather(*waiting)


async def test_who_leaves_the_line_takes_no_place() -> None:
    broker, window = Broker(), MessageWindow(most=1, patience_s=60)
    first, packing = added(Packing(broker.publish, window=window), "a"), Packing(Broker().publish, window=window)
    await turns()
    waiting = added(packing, "b")
    await turns()
    assert packing._sending is not None
    packing._sending.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await broker.confirm()
    await asyncio.gather(*first)
    last = added(Packing(broker.publish, window=window), "c")
    await turns()
    assert broker.messages == [["a"], ["c"]]
    await broker.confirm()
    await asyncio.gather(*last)
