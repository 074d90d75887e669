"""What was pushed while the next connect was on its way may never have come: it is sent once more on demand."""

import pytest

from parts.frames import SocketPage
from parts.hubs import Installation

HURRY = {"timeout": 0}


async def pushed(system: Installation, page: SocketPage, number: int) -> list[int]:
    """An event that goes out at once."""
    before = len(page.events())
    await system.publish(number)
    return page.events()[before:]


async def answered(system: Installation, page: SocketPage) -> None:
    """The connect's time is up."""
    before = len(page.replies())
    await page.let_pass(30_000)
    assert len(page.replies()) == before + 1
    await system.settle()


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_what_was_pushed_before_a_connect_came_is_sent_again(system: Installation, *, is_elsewhere: bool) -> None:
    page = await SocketPage.open(system.one, ack=False)
    assert await pushed(system, page, 1) == [1]
    await answered(system, page)
    # The client knows of the answer, and with it of all before, and connects again meanwhile.
    assert await pushed(system, page, 2) == [2]
    page.connect("c2")
    await page.holds("c2")
    assert await pushed(system, page, 3) == [3]
    # Then the link breaks, and neither has come.
    if is_elsewhere:
        # It may have been given up before the former home let go: the answer is empty.
        assert (await page.alice.poll(system.two, advice=HURRY))[0] == []
        assert (await page.alice.poll(system.two))[0] == [2, 3]
    else:
        assert (await page.alice.poll(system.one, advice=HURRY))[0] == [2, 3]


async def test_a_client_that_goes_on_gets_nothing_twice(system: Installation) -> None:
    page = await SocketPage.open(system.one, ack=False)
    for number in range(0, 6, 2):
        assert await pushed(system, page, number) == [number]
        await answered(system, page)
        assert await pushed(system, page, number + 1) == [number + 1]
        page.connect(f"d{number}")
        await page.holds(f"d{number}")
    assert page.events() == list(range(6))
    assert system.one.count("redelivered_total") == 0


@pytest.mark.parametrize("is_told", [False, True])
async def test_a_subscription_to_the_past_hides_nothing_that_was_lost(system: Installation, *, is_told: bool) -> None:
    page = await SocketPage.open(system.one, ack=False)
    assert await pushed(system, page, 1) == [1]
    await answered(system, page)
    assert await pushed(system, page, 2) == [2]
    system.loses_notices = not is_told
    await page.alice.subscribe(system.two, "/v2/other", ext={"replay": {"/v2/other": -2}})
    await system.settle()
    # Nothing of what was pushed comes twice while all goes well.
    page.connect("c2")
    await page.holds("c2")
    assert await pushed(system, page, 3) == [3]
    alice = page.alice
    assert (await alice.poll(system.one, advice=HURRY))[0] == [2, 3]
    await system.settle()
    await alice.poll(system.one, advice={"timeout": 1})
    alice.connection_id += 1
    assert (await alice.poll(system.one, advice=HURRY))[0] == []
