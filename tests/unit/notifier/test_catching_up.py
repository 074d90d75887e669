"""What comes while a session reads on in the stream is for the session, too."""

from calltag.core.bayeux.events import Position
from calltag.core.domain.ids import UserId
from calltag.core.store.event_log import Page
from parts.hubs import Client, Installation


async def test_an_event_that_comes_with_the_answer_of_the_store_is_not_taken_for_one_that_is_gone(
    system: Installation,
) -> None:
    alice = await Client().begin(system.one)
    resident = system.one.registry.residents[alice.client_id]
    session, streams = resident.session, system.one.dispatcher.streams
    read, reads = streams.read, 0

    async def read_late(user: UserId, after: Position, most: int) -> Page:
        nonlocal reads
        page, reads = await read(user, after, most), reads + 1
        if reads == 1:
            # It was added when this had been read, and the broker was faster.
            await system.publish(1)
        return page

    streams.read = read_late  # type: ignore[method-assign]
    session.fall_behind()
    await system.one.dispatcher.catch_up(resident)
    assert (len(session.queue), session.has_missed, session.is_behind) == (1, False, False)
