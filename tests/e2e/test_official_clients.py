"""The official JavaScript client, from the version that Web Services know to the newest, over both its transports."""

import copy
from collections.abc import Iterator

import pytest

from clients.js_client import js_client
from parts import documented
from parts.agent import Agent, agent
from parts.system import System

SYSTEMS = ("one-process", "three-notifiers-behind-haproxy")
VERSIONS = pytest.mark.parametrize("version", ["cometd-3", "cometd-5", "cometd-7", "cometd-8", "cometd-9"])
TRANSPORTS = pytest.mark.parametrize("transport", ["long-polling", "websocket"])
OTHER_PATH = {"cometd-9": "/api/v2/notifications"}


def url_for(version: str, system: System) -> str:
    """The endpoint that a client of that version uses: the newest one goes to the other one."""
    return system.cometd_url + OTHER_PATH.get(version, "/genesys/cometd")


async def begin(switch: Agent, call: str) -> None:
    facts = {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call, "callType": "Inbound",
             "parties": [{"phoneNumber": "15001", "state": "Established"}]}  # fmt: skip
    assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}


@VERSIONS
@TRANSPORTS
async def test_the_javascript_client(system: System, version: str, transport: str, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "bob") as bob, js_client(version) as client:
        assert (await client.sign_in(url_for(version, system), transport, "bob"))["successful"]
        assert (await client.next("connect"))["successful"]
        await client.do(batch=["/v2/me/calls", "/v2/me/*", "/v2/me/devices"])
        for _ in range(3):
            assert (await client.next("subscribe"))["successful"]
        await begin(switch, call_id)
        # The client gives an event to each of its matching subscriptions; the server sends it once.
        for _ in range(2):
            assert (await client.next("event"))["data"]["notificationType"] == "StatusChange"
        for number in range(30):
            assert (await bob.operate(call_id, "AttachUserData", userData={"n": number})) == {"statusCode": 0}
        versions = [(await client.next("event"))["ext"]["calltag"]["version"] for _ in range(60)]
        assert versions == sorted([*range(2, 32), *range(2, 32)])
        await client.do(unsubscribe="/v2/me/*")
        assert (await client.next("unsubscribe"))["successful"]
        await bob.operate(call_id, "DeleteUserData")
        assert "userData" not in (await client.next("event"))["data"]["call"]
        await client.do(disconnect=True)
        assert (await client.next("disconnect"))["successful"]


@VERSIONS
@TRANSPORTS
async def test_the_javascript_client_with_a_wrong_password(system: System, version: str, transport: str) -> None:
    async with js_client(version) as client:
        shaken = await client.sign_in(url_for(version, system), transport, "nobody")
        assert not shaken["successful"]
        assert shaken["advice"]["reconnect"] == "none"


@pytest.fixture
def without_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The document as it would be without the messages about calls."""
    poorer = copy.deepcopy(documented.document())
    for channel in poorer["channels"].values():
        channel["messages"].pop("CallMessage", None)
    with monkeypatch.context() as patched:
        patched.setattr(documented, "document", lambda: poorer)
        documented.channels.cache_clear()
        yield
    documented.channels.cache_clear()


@pytest.mark.parametrize("version", ["cometd-3", "cometd-9", "faye"])
@TRANSPORTS
@pytest.mark.usefixtures("without_calls")
async def test_a_message_that_is_not_documented_is_a_fault(
    system: System, version: str, transport: str, call_id: str
) -> None:
    async with agent(system, "switch") as switch, js_client(version) as client:
        await client.sign_in(url_for(version, system), transport, "bob")
        await client.do(subscribe="/v2/me/calls")
        assert (await client.next("subscribe"))["successful"]
        await begin(switch, call_id)
        with pytest.raises(AssertionError, match="is not documented"):
            await client.next("event")
