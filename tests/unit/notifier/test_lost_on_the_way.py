"""What was pushed while the next connect was on its way may never have come: it is sent once more on demand."""

import pytest

from calltag.notifier.cometd.answers import HeldConnect
from parts.hubs import Client, Installation, Node, numbers

HURRY = {"timeout": 0}


async def connected(node: Node, alice: Client) -> HeldConnect:
    """A connect on a WebSocket, which is held."""
    turn = await alice.send(node, alice.connecting(connectionType="websocket"), streaming=True)
    assert turn.held is not None
    return turn.held


async def pushed(system: Installation, node: Node, alice: Client, number: int) -> list[int]:
    """An event that goes out at once."""
    await system.publish(number)
    return numbers(node.connects.answers.take(node.local.sessions[alice.client_id]))


async def answered(system: Installation, node: Node, connect: HeldConnect) -> None:
    """The connect's time is up."""
    assert node.connects.answers.finish(connect) is not None
    await system.settle()


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_what_was_pushed_before_a_connect_came_is_sent_again(system: Installation, *, elsewhere: bool) -> None:
    alice = await Client().begin(system.one)
    connect = await connected(system.one, alice)
    assert await pushed(system, system.one, alice, 1) == [1]
    await answered(system, system.one, connect)
    # The client knows of the answer, and with it of all before, and connects again meanwhile.
    assert await pushed(system, system.one, alice, 2) == [2]
    await connected(system.one, alice)
    assert await pushed(system, system.one, alice, 3) == [3]
    # Then the link breaks, and neither has come.
    node = system.two if elsewhere else system.one
    assert (await alice.poll(node, advice=HURRY))[0] == [2, 3]


async def test_a_client_that_goes_on_gets_nothing_twice(system: Installation) -> None:
    alice = await Client().begin(system.one)
    got = []
    for number in range(0, 6, 2):
        connect = await connected(system.one, alice)
        got += await pushed(system, system.one, alice, number)
        await answered(system, system.one, connect)
        got += await pushed(system, system.one, alice, number + 1)
    assert got == list(range(6))
    assert system.one.metrics.redeliveries == 0


@pytest.mark.parametrize("told", [False, True])
async def test_a_subscription_to_the_past_hides_nothing_that_was_lost(system: Installation, *, told: bool) -> None:
    alice = await Client().begin(system.one)
    connect = await connected(system.one, alice)
    assert await pushed(system, system.one, alice, 1) == [1]
    await answered(system, system.one, connect)
    assert await pushed(system, system.one, alice, 2) == [2]
    system.loses_notices = not told
    await alice.subscribe(system.two, "/v2/other", ext={"replay": {"/v2/other": -2}})
    await system.settle()
    # Nothing of what was pushed comes twice while all goes well.
    connect = await connected(system.one, alice)
    assert await pushed(system, system.one, alice, 3) == [3]
    # When the holder was told, it could not know whether the answer had come, either.
    assert (await alice.poll(system.one, advice=HURRY))[0] == ([1, 2, 3] if told else [2, 3])
    await system.settle()
    connect = await connected(system.one, alice)
    await answered(system, system.one, connect)
    await connected(system.one, alice)
    assert (await alice.poll(system.one, advice=HURRY))[0] == []
