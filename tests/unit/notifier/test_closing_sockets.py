"""Close frames of the server that cross what is on its way: nothing that was not written counts as read."""

from parts.eventually import eventually
from parts.frames import SocketPage
from parts.hubs import Installation
from unit.notifier.conftest import begun_with_wish, two_polls

GOING_AWAY = 1001


def close(page: SocketPage) -> None:
    """The server sends its close frame."""
    page.frames.handler.leave()
    assert page.frames.code == GOING_AWAY


async def test_an_event_that_comes_before_the_client_answers_the_close_frame_is_sent_later(
    system: Installation,
) -> None:
    page = SocketPage(system.one, await begun_with_wish(system.one, connects_only=True))
    page.connect("c1")
    await page.holds("c1")
    close(page)
    await system.publish(1)
    page.frames.go(is_clean=True)
    assert page.events() == []
    assert await two_polls(system.one, page.alice) == [1]


async def test_a_connect_that_crosses_the_close_frame_loses_no_event(system: Installation) -> None:
    page = SocketPage(system.one, await begun_with_wish(system.one, connects_only=True))
    page.connect("c1", advice={"timeout": 0})
    await page.is_answered("c1")
    await system.publish(1)
    # The store is asked for a message, and the connect is behind it.
    page.frames.come({"channel": "/service/x", "id": "s1", "clientId": page.alice.client_id, "data": {}})
    page.connect("c2")
    page.frames.handler._close(GOING_AWAY)
    await eventually(lambda: page.frames.is_idle)
    page.frames.go(is_clean=True)
    assert page.events() == []
    assert await two_polls(system.one, page.alice) == [1]


async def test_a_connect_whose_time_is_up_behind_the_close_frame_loses_no_event(system: Installation) -> None:
    page = await SocketPage.open(system.one, ack=False)
    close(page)
    await system.publish(1)
    await page.let_pass(30_000)
    assert page.suspended is None
    page.frames.go(is_clean=True)
    assert page.events() == []
    assert await two_polls(system.one, page.alice) == [1]


async def test_what_a_client_has_read_before_the_close_frame_does_not_come_again_at_another_node(
    system: Installation,
) -> None:
    """Also where the session has moved from node to node."""
    page = await SocketPage.open(system.one, ack=False)
    elsewhere = await page.move(system.two)
    await system.publish(1)
    assert elsewhere.events() == [1]
    close(elsewhere)
    elsewhere.frames.go(is_clean=True)
    assert await two_polls(system.one, page.alice) == []
