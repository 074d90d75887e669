"""Supervisors watch the calls of their agents, administrators all calls; nobody else does."""

from contextlib import AsyncExitStack

from parts.agent import Agent, agent
from parts.system import System

SYSTEMS = ("one-process", "three-notifiers-behind-haproxy")

NO_PERMISSION = 5


async def begin(switch: Agent, call: str, *numbers: str) -> None:
    parties = [{"phoneNumber": number, "state": "Established"} for number in numbers]
    facts = {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call, "parties": parties}
    assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}


async def versions(watcher: Agent, channel: str, count: int) -> list[int]:
    """The versions of the watched call in the next messages, which all come on the channel."""
    found = []
    for _ in range(count):
        message = await watcher.next_message()
        assert message["channel"] == channel
        found.append(message["ext"]["calltag"]["version"])
    return found


async def test_changes_reach_supervisor_and_administrator_in_order(system: System, call_id: str) -> None:
    async with AsyncExitStack() as stack:
        switch, bob = [await stack.enter_async_context(agent(system, user)) for user in ("switch", "bob")]
        carol = await stack.enter_async_context(agent(system, "carol", "/v2/users/bob/calls"))
        admin = await stack.enter_async_context(agent(system, "admin", "/v2/calls", "/v2/users/**"))
        for watcher in (carol, admin):
            watcher.about = call_id
            await stack.enter_async_context(watcher.listening())
        await begin(switch, call_id, "15001")
        for number in range(20):
            assert await bob.operate(call_id, "AttachUserData", userData={"n": number}) == {"statusCode": 0}
        assert await versions(carol, "/v2/users/bob/calls", 21) == list(range(1, 22))
        both = [await admin.next_message() for _ in range(42)]
        for channel in ("/v2/calls", "/v2/users/bob/calls"):
            told = [each["ext"]["calltag"]["version"] for each in both if each["channel"] == channel]
            assert told == list(range(1, 22))
        assert both[-1]["data"]["phoneNumber"] == "15001"


async def test_a_supervisor_who_joins_a_watched_call_misses_nothing(system: System, call_id: str) -> None:
    """What was watched before comes first, though it goes into the stream by another way."""
    channels = ("/v2/me/calls", "/v2/users/alice/calls")
    async with (
        agent(system, "switch") as switch,
        agent(system, "alice") as alice,
        agent(system, "carol", *channels) as carol,
    ):
        carol.about = call_id
        async with carol.listening():
            await begin(switch, call_id, "15000")
            for number in range(5):
                await alice.operate(call_id, "AttachUserData", userData={"n": number})
            joins = {"eventId": f"j-{call_id}", "eventType": "PartyChanged", "id": call_id,
                     "parties": [{"phoneNumber": "15002", "state": "Established"}]}  # fmt: skip
            assert (await switch.post("/switch/events", joins)).json() == {"statusCode": 0}
            for number in range(5):
                await alice.operate(call_id, "AttachUserData", userData={"m": number})
            watched: list[int] = []
            own: list[int] = []
            while len(watched) < 12 or len(own) < 6:
                message = await carol.next_message()
                found = own if message["channel"] == channels[0] else watched
                found.append(message["ext"]["calltag"]["version"])
    assert watched == list(range(1, 13))
    assert own == list(range(7, 13))


async def test_others_are_refused(system: System) -> None:
    hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    refused = {
        "bob": ["/v2/users/alice/calls", "/v2/users/alice/**", "/v2/calls"],
        "carol": ["/v2/users/dave/calls", "/v2/calls"],
    }
    for user, channels in refused.items():
        async with agent(system, user) as other:
            [shaken] = await other.bayeux(hello)
            for channel in channels:
                subscription = {"channel": "/meta/subscribe", "clientId": shaken["clientId"], "subscription": channel}
                [reply] = await other.bayeux(subscription)
                assert (reply["successful"], reply["error"]) == (False, f"403:{channel}:subscribe_denied")


async def test_a_supervisor_reads_the_calls_of_own_agents_and_changes_none(system: System, call_id: str) -> None:
    other = f"{call_id[:-1]}X"
    async with agent(system, "switch") as switch, agent(system, "carol") as carol:
        await begin(switch, call_id, "15001")
        await begin(switch, other, "15004")
        seen = await carol.http.get(f"/api/v2/me/calls/{call_id}")
        assert (seen.status_code, seen.json()["call"]["id"]) == (200, call_id), seen.text
        assert (await carol.operate(call_id, "AttachUserData", userData={"n": 1}))["statusCode"] == NO_PERMISSION
        assert (await carol.http.get(f"/api/v2/me/calls/{other}")).status_code == 403
