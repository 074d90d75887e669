"""The official JavaScript client with its extensions, from the version that Web Services know to the newest."""

import asyncio

import pytest

from clients.js_client import js_client
from e2e.test_official_clients import TRANSPORTS, VERSIONS, begin, url_for
from parts.agent import Agent, agent
from parts.system import System

SYSTEMS = ("one-process", "three-notifiers-behind-haproxy")
ACK = "AckExtension"


@VERSIONS
@TRANSPORTS
async def test_acknowledgment_timesync_and_timestamp(
    system: System, version: str, transport: str, call_id: str
) -> None:
    extensions = (ACK, "TimeSyncExtension", "TimeStampExtension")
    async with agent(system, "switch") as switch, agent(system, "bob") as bob, js_client(version) as client:
        shaken = await client.sign_in(url_for(version, system), transport, "bob", *extensions)
        assert (shaken["successful"], shaken["ext"]["ack"], shaken["ext"]["replay"]) == (True, True, True)
        assert set(shaken["ext"]["timesync"]) >= {"tc", "ts", "p"}
        assert shaken["timestamp"]
        first = (await client.next("connect"))["ext"]["ack"]
        await client.do(subscribe="/v2/me/calls")
        assert (await client.next("subscribe"))["successful"]
        await begin(switch, call_id)
        for number in range(20):
            assert await bob.operate(call_id, "AttachUserData", userData={"n": number}) == {"statusCode": 0}
        told = [(await client.next("event"))["ext"]["calltag"] for _ in range(21)]
        assert [each["version"] for each in told] == list(range(1, 22))
        # Numbers count answers; clients keep them in 32 bits.
        assert 1 == first < (await client.next("connect"))["ext"]["ack"] < 2**31
        await client.do(disconnect=True)
        assert (await client.next("disconnect"))["successful"]


async def attach(bob: Agent, call: str, numbers: range) -> None:
    for number in numbers:
        assert await bob.operate(call, "AttachUserData", userData={"n": number}) == {"statusCode": 0}


@VERSIONS
@TRANSPORTS
@pytest.mark.parametrize("acknowledging", [(ACK,), ()], ids=["ack", "no-ack"])
async def test_a_page_that_is_reloaded_goes_on_with_its_session_and_misses_nothing(
    system: System, version: str, transport: str, acknowledging: tuple[str, ...], call_id: str
) -> None:
    extensions = (*acknowledging, "TimeSyncExtension", "TimeStampExtension", "ReloadExtension")
    async with agent(system, "switch") as switch, agent(system, "bob") as bob, js_client(version) as client:
        shaken = await client.sign_in(url_for(version, system), transport, "bob", *extensions)
        await client.next("connect")
        await client.do(subscribe="/v2/me/calls")
        await client.next("subscribe")
        await begin(switch, call_id)
        async with asyncio.TaskGroup() as group:
            group.create_task(attach(bob, call_id, range(40)))
            for _ in range(3):
                await client.next("event")
                again = await client.reload()
                assert (again["clientId"], again["ext"]["reload"]) == (shaken["clientId"], True)
                # A connect of the former page, cut off with it, may be the last one to claim the session at its node.
                while not (await client.next("connect"))["successful"]:
                    pass
                assert (await client.next("subscribe"))["successful"]
        while client.versions()[-1:] != [41]:
            await client.next("event")
        assert client.versions() == list(range(1, 42))
        assert client.handshakes == 1
