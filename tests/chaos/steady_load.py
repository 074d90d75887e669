"""Values attached to calls one after another, while processes are replaced, and what has to come of them."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from parts.agent import Agent
from parts.eventually import eventually

PACE_S = 0.15


class Load:
    """Values attached to some calls, one after another on each; every third operation waits for its outcome."""

    def __init__(self, alice: Agent, calls: list[str]) -> None:
        self.alice = alice
        self.sent = dict.fromkeys(calls, 0)

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for call in self.sent:
                group.create_task(self._send(call, ending))
            try:
                yield
            finally:
                ending.set()

    async def _send(self, call: str, ending: asyncio.Event) -> None:
        for number in itertools.count():
            if ending.is_set():
                return
            prefer = "" if number % 3 else "wait=10"
            answer = await self.alice.operate(call, "AttachUserData", prefer=prefer, userData={"n": number})
            assert answer["statusCode"] == 0, answer
            if prefer:
                # The outcome, and not only that the operation was taken.
                assert answer["call"]["userData"]["n"] in (number, list(range(number + 1)))
            self.sent[call] += 1
            await asyncio.sleep(PACE_S)


def versions(alice: Agent, call: str) -> list[int]:
    """The versions of a call in the order in which they came; a repeat would be there twice."""
    return [message["ext"]["calltag"]["version"] for message in alice.messages if message["data"]["call"]["id"] == call]


async def begin_calls(switch: Agent, calls: Sequence[str]) -> None:
    """Begin calls of alice."""
    facts = [
        {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call,
         "parties": [{"phoneNumber": "15000", "state": "Established"}]}
        for call in calls
    ]  # fmt: skip
    assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}


async def until_all_arrived(load: Load) -> None:
    """Wait until the message about each operation was received."""
    await eventually(
        lambda: all(len(versions(load.alice, call)) > sent for call, sent in load.sent.items()), within_s=30
    )


async def check_nothing_lost_or_doubled(load: Load) -> None:
    """Each operation took effect once, in order, and so did its message arrive."""
    for call, sent in load.sent.items():
        assert versions(load.alice, call) == list(range(1, sent + 2))
        answer = (await load.alice.http.get(f"/api/v2/me/calls/{call}")).json()
        assert answer["call"]["userData"]["n"] == list(range(sent))
