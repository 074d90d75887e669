"""Two clients do whatever comes to mind, through the whole pipeline; a plain model says what must come out."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from parts.agent import Agent, agent
from parts.system import System, embedded_system

KEYS = st.sampled_from(["a", "b", "c"])
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.text("xyz", max_size=3)
    | st.lists(st.integers(0, 3), max_size=3)
)
PAIRS = st.dictionaries(KEYS, VALUES, max_size=3)
WHO = st.sampled_from(["alice", "bob"])
T = TypeVar("T")


class Model:
    """What user data should be: a dictionary of lists, and how often it changed."""

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {}
        self.version = 1

    def attach(self, pairs: dict[str, Any]) -> None:
        before = repr(self.values)
        for key, value in pairs.items():
            for each in value if isinstance(value, list) else [value]:
                self.values.setdefault(key, []).append(each)
        self.version += repr(self.values) != before

    def update(self, pairs: dict[str, Any]) -> None:
        before = repr(self.values)
        for key, value in pairs.items():
            self.values[key] = list(value) if isinstance(value, list) else [value]
            if not self.values[key]:
                del self.values[key]
        # One that sets the present values is reported; one without any value, and without effect, is not.
        self.version += repr(self.values) != before or any(value != [] for value in pairs.values())

    def delete(self, keys: list[str]) -> None:
        there = [key for key in keys if key in self.values]
        for key in there:
            del self.values[key]
        self.version += bool(there)

    def seen(self) -> dict[str, Any]:
        return {key: values[0] if len(values) == 1 else values for key, values in self.values.items()}


class TwoClients(RuleBasedStateMachine):
    """Sends operations without waiting in between, and compares at the end with the model and with what was told."""

    system: System
    loop: asyncio.AbstractEventLoop
    agents: dict[str, Agent]
    count = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @initialize()
    def begin(self) -> None:
        type(self).count += 1
        self.call = f"MODEL{self.count}"
        self.model = Model()
        parties = [{"phoneNumber": number, "state": "Established"} for number in ("15000", "15001")]
        facts = {"eventId": self.call, "eventType": "CallStarted", "id": self.call, "parties": parties}
        for each in self.agents.values():
            each.about = self.call
        assert self.run(self.agents["switch"].post("/switch/events", facts, Prefer="wait=10")).status_code == 200

    def operate(self, who: str, name: str, change: Callable[[], None], **parameters: Any) -> None:
        assert self.run(self.agents[who].operate(self.call, name, **parameters)) == {"statusCode": 0}
        change()

    @rule(who=WHO, pairs=PAIRS)
    def attach(self, who: str, pairs: dict[str, Any]) -> None:
        self.operate(who, "AttachUserData", lambda: self.model.attach(pairs), userData=pairs)

    @rule(who=WHO, pairs=PAIRS)
    def update(self, who: str, pairs: dict[str, Any]) -> None:
        self.operate(who, "UpdateUserData", lambda: self.model.update(pairs), userData=pairs)

    @rule(who=WHO, key=KEYS)
    def delete_pair(self, who: str, key: str) -> None:
        self.operate(who, "DeleteUserDataPair", lambda: self.model.delete([key]), key=key)

    @rule(who=WHO)
    def delete_all(self, who: str) -> None:
        self.operate(who, "DeleteUserData", lambda: self.model.delete(list(self.model.values)))

    def teardown(self) -> None:
        if not hasattr(self, "call"):
            return
        for who in ("alice", "bob"):
            told: dict[str, Any] = {"ext": {"calltag": {"version": 0}}, "data": {"call": {}}}
            while told["ext"]["calltag"]["version"] < self.model.version:
                before = told["ext"]["calltag"]["version"]
                told = self.run(self.agents[who].next_message())
                assert told["ext"]["calltag"]["version"] == before + 1
            assert repr(told["data"]["call"].get("userData", {})) == repr(self.model.seen())
        answer = self.run(self.agents["alice"].http.get(f"/api/v2/me/calls/{self.call}")).json()
        assert repr(answer["call"].get("userData", {})) == repr(self.model.seen())


@pytest.mark.timeout(240)
def test_two_clients_and_a_model(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()

    async def prepare(stack: list[Any], system: System) -> None:
        for user, channels in (("alice", ["/v2/me/calls"]), ("bob", ["/v2/me/calls"]), ("switch", [])):
            entered = agent(system, user, *channels)
            TwoClients.agents[user] = await entered.__aenter__()
            stack.append(entered)

    async def finish(stack: list[Any]) -> None:
        for entered in stack:
            await entered.__aexit__(None, None, None)

    with embedded_system(tmp_path) as system:
        stack: list[Any] = []
        TwoClients.loop, TwoClients.agents = loop, {}
        loop.run_until_complete(prepare(stack, system))
        try:
            run_state_machine_as_test(
                TwoClients,
                settings=settings(
                    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
                ),
            )
        finally:
            loop.run_until_complete(finish(stack))
            loop.close()
