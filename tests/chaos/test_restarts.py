"""P4: every process is told to end, one of each kind at a time, under load. Nobody notices."""

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, two_of_each_behind_haproxy

pytestmark = pytest.mark.heavy

CALLS = 6
PACE_S = 0.15
DRAIN_DELAY_S = 4.0
"""Longer than the front takes to notice, on a busy machine too."""
DRAIN_TIMEOUT_S = 10.0
ROUNDS = (("gateway-0", "worker-0", "notifier-0"), ("gateway-1", "worker-1", "notifier-1"))


@pytest.fixture
def system(tmp_path: Path, rabbitmq: RabbitMq, redis_server: RedisServer, amqp_prefix: str) -> Iterator[System]:
    redis_server.clear()
    settings = {
        "CALLTAG_DRAIN_DELAY_S": str(DRAIN_DELAY_S),
        "CALLTAG_DRAIN_TIMEOUT_S": str(DRAIN_TIMEOUT_S),
        "CALLTAG_WORKER__LEASE_S": "6",
        "CALLTAG_REDIS__DEADLINE_S": "5",
        "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "5",
    }
    with two_of_each_behind_haproxy(tmp_path, rabbitmq.url, redis_server.url, amqp_prefix, **settings) as running:
        yield running


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


async def restart(system: System, names: tuple[str, ...]) -> None:
    """Tell all of them to end at once, have them end cleanly within the time to drain, and start them again."""
    began = time.monotonic()
    for name in names:
        system.programs[name].signal(signal.SIGTERM)
    for name in names:
        within_s = began + DRAIN_DELAY_S + DRAIN_TIMEOUT_S - time.monotonic()
        assert await asyncio.to_thread(system.programs[name].wait, within_s) == 0, system.programs[name].text()[-2000:]
    await asyncio.gather(*(asyncio.to_thread(system.start_again, name) for name in names))


@pytest.mark.timeout(240)
async def test_no_request_fails_and_nothing_is_lost_or_doubled_when_processes_are_restarted(
    system: System, call_id: str
) -> None:
    calls = [f"{call_id}{number}" for number in range(CALLS)]
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        facts = [
            {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call,
             "parties": [{"phoneNumber": "15000", "state": "Established"}]}
            for call in calls
        ]  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}
        load = Load(alice, calls)
        async with alice.listening():
            async with load.sending():
                for names in ROUNDS:
                    await restart(system, names)

            def all_told() -> bool:
                return all(len(versions(alice, call)) > sent for call, sent in load.sent.items())

            await eventually(all_told, within_s=30)
        for call, sent in load.sent.items():
            assert versions(alice, call) == list(range(1, sent + 2))
            answer = (await alice.http.get(f"/api/v2/me/calls/{call}")).json()
            assert answer["call"]["userData"]["n"] == list(range(sent))
    assert "Traceback" not in system.logs()
