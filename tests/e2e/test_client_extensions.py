"""The official JavaScript client with its extensions, from the version that Web Services know to the newest."""

import pytest

from clients.js_client import js_client
from e2e.test_official_clients import begin
from parts.agent import agent
from parts.system import System

VERSIONS = pytest.mark.parametrize("version", ["cometd-3", "cometd-5", "cometd-7", "cometd-8", "cometd-9"])
TRANSPORTS = pytest.mark.parametrize("transport", ["long-polling", "websocket"])
EXTENSIONS = ("AckExtension", "TimeSyncExtension", "TimeStampExtension")


@VERSIONS
@TRANSPORTS
async def test_acknowledgment_timesync_and_timestamp(
    system: System, version: str, transport: str, call_id: str
) -> None:
    async with agent(system, "switch") as switch, agent(system, "bob") as bob, js_client(version) as client:
        shaken = await client.sign_in(f"{system.cometd_url}/genesys/cometd", transport, "bob", *EXTENSIONS)
        assert (shaken["successful"], shaken["ext"]["ack"], shaken["ext"]["replay"]) == (True, True, True)
        assert set(shaken["ext"]["timesync"]) >= {"tc", "ts", "p"}
        assert shaken["timestamp"]
        await client.next("connect")
        await client.do(subscribe="/v2/me/calls")
        assert (await client.next("subscribe"))["successful"]
        await begin(switch, call_id)
        for number in range(20):
            assert await bob.operate(call_id, "AttachUserData", userData={"n": number}) == {"statusCode": 0}
        told = [(await client.next("event"))["ext"]["calltag"] for _ in range(21)]
        assert [each["version"] for each in told] == list(range(1, 22))
        batch = 0
        while batch < told[-1]["replayId"]:
            batch = (await client.next("connect"))["ext"]["ack"] // 16
        await client.do(disconnect=True)
        assert (await client.next("disconnect"))["successful"]
