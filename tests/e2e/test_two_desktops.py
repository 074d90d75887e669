"""Two desktops write to the same ringing call at the same moment, as that of Web Services does on every call."""

import asyncio
from typing import Any

from parts.agent import Agent, agent
from parts.system import System

SYSTEMS = ("one-process", "three-processes", "three-notifiers-behind-haproxy")
_CALLS = 25


def written(name: str, number: str) -> dict[str, Any]:
    """What a desktop writes when a call rings: who it is, as a nested object."""
    return {
        f"WWE_PARTY_{number}": {"username": name, "firstname": name.title(), "path": f"/users/{name}", "n": [1, {}]}
    }


async def write_when_it_rings(user: Agent, name: str, number: str, call: str) -> None:
    while (await user.next_message())["data"]["call"]["state"] != "Ringing":
        pass
    # No wait in the request: the desktop goes on.
    assert await user.operate(call, "UpdateUserData", userData=written(name, number)) == {"statusCode": 0}


async def settled(user: Agent, version: int) -> list[dict[str, Any]]:
    """The messages up to that version."""
    told = [await user.next_message()]
    while told[-1]["ext"]["calltag"]["version"] < version:
        told.append(await user.next_message())
    return told


async def test_both_keys_are_there_always(system: System, call_id: str) -> None:
    async with (
        agent(system, "switch") as switch,
        agent(system, "alice", "/v2/me/calls") as alice,
        agent(system, "bob", "/v2/me/calls") as bob,
    ):
        parties = [{"phoneNumber": number, "state": "Ringing"} for number in ("15000", "15001")]
        wanted = {"IW_CaseUid": "c", **written("alice", "15000"), **written("bob", "15001")}
        for number in range(_CALLS):
            call = f"{call_id}-{number}"
            alice.about = bob.about = call
            fact = {"eventId": call, "eventType": "CallStarted", "id": call, "parties": parties,
                    "userData": {"IW_CaseUid": "c"}}  # fmt: skip
            begun = switch.post("/switch/events", fact)
            await asyncio.gather(
                begun,
                write_when_it_rings(alice, "alice", "15000", call),
                write_when_it_rings(bob, "bob", "15001", call),
            )
            for told in await asyncio.gather(settled(alice, 3), settled(bob, 3)):
                assert [each["ext"]["calltag"]["version"] for each in told] == [2, 3]
                # Neither ever sees a key vanish, and both see the same at the end.
                assert len(told[0]["data"]["call"]["userData"]) == 2
                assert told[1]["data"]["call"]["userData"] == wanted
            for user in (alice, bob):
                read = (await user.http.get(f"/api/v2/me/calls/{call}")).json()["call"]
                assert read["userData"] == wanted
            await switch.post("/switch/events", {"eventId": f"e-{call}", "eventType": "CallEnded", "id": call})
