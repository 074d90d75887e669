"""How much is sent to Redis at a time follows from how long it takes."""

import asyncio
from dataclasses import dataclass, field

import pytest

from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.ports import CommitConflict, StoreUnavailable


@dataclass
class Link:
    """A link that carries so many bytes a second, on a clock of its own."""

    bytes_per_s: int
    now_s: float = 0.0
    window: ByteWindow = field(init=False)
    failed: int = 0

    def __post_init__(self) -> None:
        self.window = ByteWindow(1_000_000, 1.0, lambda: self.now_s)

    async def send(self, size_bytes: int) -> bool:
        """Whether it arrived within the deadline."""
        try:
            async with self.window.exchange(size_bytes):
                self._carry(size_bytes)
        except StoreUnavailable:
            self.failed += 1
            return False
        return True

    def _carry(self, size_bytes: int) -> None:
        self.now_s += min(size_bytes / self.bytes_per_s, 1.0)
        if size_bytes > self.bytes_per_s:
            raise StoreUnavailable("late")


async def test_on_a_slow_link_batches_become_as_small_as_arrive_in_time() -> None:
    link = Link(400_000)
    sent = 0
    while sent < 10_000_000:
        size = link.window.batch_bytes
        sent += size if await link.send(size) else 0
    assert link.failed <= 2, "and it is not tried again and again whether larger ones arrive"
    assert 100_000 <= link.window.batch_bytes <= 200_000


async def test_on_a_quick_link_batches_have_their_full_size_again() -> None:
    link = Link(100)
    while link.window.batch_bytes > 2_000:
        assert not await link.send(link.window.batch_bytes)
    link.bytes_per_s = 100_000_000
    rounds = 0
    while link.window.batch_bytes < 1_000_000:
        assert await link.send(link.window.batch_bytes)
        rounds += 1
    assert rounds < 20


async def test_small_exchanges_prove_nothing_about_large_ones() -> None:
    link = Link(100)
    await link.send(500_000)
    before = link.window.size_bytes
    assert before == 250_000
    link.bytes_per_s = 10_000_000
    for _ in range(10):
        await link.send(10)
    assert link.window.size_bytes == before


async def test_who_does_not_fit_waits_in_line() -> None:
    window, begun = ByteWindow(100), list[str]()
    leave = {name: asyncio.Event() for name in ("first", "large", "small")}

    async def send(name: str, size_bytes: int) -> None:
        async with window.exchange(size_bytes):
            begun.append(name)
            await leave[name].wait()

    tasks = [asyncio.create_task(send(*each)) for each in (("first", 700), ("large", 200), ("small", 50))]
    await asyncio.sleep(0)
    assert begun == ["first"], "what came first is not overtaken by what is smaller"
    leave["first"].set()
    await asyncio.sleep(0.01)
    assert begun == ["first", "large", "small"]
    for event in leave.values():
        event.set()
    await asyncio.gather(*tasks)


async def test_what_is_larger_than_the_window_goes_when_nothing_else_is_under_way() -> None:
    window = ByteWindow(100)
    async with asyncio.timeout(10), window.exchange(10_000):
        pass
    async with window.exchange(1):
        waiting = asyncio.create_task(_once(window, 10_000))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def _once(window: ByteWindow, size_bytes: int) -> None:
    async with window.exchange(size_bytes):
        pass


async def test_who_is_cancelled_while_waiting_takes_no_room() -> None:
    window = ByteWindow(100)
    async with window.exchange(800):
        waiting = [asyncio.create_task(_once(window, 800)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
    # In the same moment as it is let in.
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert [each.cancelled() for each in waiting] == [True, True]
    async with asyncio.timeout(10):
        await _once(window, 800)


async def test_a_refusal_says_nothing_about_the_link() -> None:
    window = ByteWindow(100)
    with pytest.raises(CommitConflict):
        async with window.exchange(10):
            raise CommitConflict("no")
    assert window.size_bytes == 800


async def test_an_answer_that_does_not_arrive_is_asked_for_in_smaller_pieces_and_one_that_does_changes_nothing() -> (
    None
):
    window, asked = ByteWindow(4_000), list[int]()

    async def read(*, arrives: bool) -> None:
        async with window.reading() as max_bytes:
            asked.append(max_bytes)
            if not arrives:
                raise StoreUnavailable("late")

    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await read(arrives=False)
    await read(arrives=True)
    assert (asked, window.size_bytes) == ([4_000, 2_000, 1_024, 1_024], 1_024)
