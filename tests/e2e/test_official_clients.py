"""The official JavaScript client, old and new, over both transports; and the Python client."""

import base64

import aiocometd_ng
import pytest

from clients.js_client import js_client
from parts.agent import Agent, agent
from parts.system import System

SYSTEMS = ("one-process", "three-processes", "six-processes")
VERSIONS = pytest.mark.parametrize("version", ["cometd-3", "cometd-9"])
TRANSPORTS = pytest.mark.parametrize("transport", ["long-polling", "websocket"])
PATHS = {"cometd-3": "/genesys/cometd", "cometd-9": "/api/v2/notifications"}


async def begin(switch: Agent, call: str) -> None:
    facts = {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call, "callType": "Inbound",
             "parties": [{"phoneNumber": "15001", "state": "Established"}]}  # fmt: skip
    assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}


@VERSIONS
@TRANSPORTS
async def test_the_javascript_client(system: System, version: str, transport: str, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "bob") as bob, js_client(version) as client:
        assert (await client.sign_in(system.cometd_url + PATHS[version], transport, "bob"))["successful"]
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
        shaken = await client.sign_in(system.cometd_url + PATHS[version], transport, "nobody")
        assert not shaken["successful"]
        assert shaken["advice"]["reconnect"] == "none"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("connection_type", list(aiocometd_ng.ConnectionType))
async def test_the_python_client(system: System, connection_type: "aiocometd_ng.ConnectionType", call_id: str) -> None:
    url = f"{system.cometd_url}/genesys/cometd"
    async with (
        agent(system, "switch") as switch,
        agent(system, "bob") as bob,
        aiocometd_ng.Client(url, connection_types=connection_type, auth=Basic("bob")) as client,
    ):
        await client.subscribe("/v2/me/calls")
        await begin(switch, call_id)
        assert (await client.receive())["data"]["notificationType"] == "StatusChange"
        await bob.operate(call_id, "AttachUserData", userData={"a": 1})
        assert (await client.receive())["data"]["call"]["userData"] == {"a": 1}


class Basic(aiocometd_ng.AuthExtension):
    """Credentials in the handshake and in the headers."""

    def __init__(self, user: str) -> None:
        self._user = user
        self._header = "Basic " + base64.b64encode(f"{user}:demo".encode()).decode()

    async def incoming(self, payload: object, headers: object = None) -> None:
        """Nothing."""

    async def outgoing(self, payload: list[dict[str, object]], headers: dict[str, str] | None) -> None:
        if headers is not None:
            headers["Authorization"] = self._header
        for message in payload:
            if message["channel"] == "/meta/handshake":
                message.setdefault("ext", {})["authentication"] = {"user": self._user, "password": "demo"}  # type: ignore[index]

    async def authenticate(self) -> None:
        """Nothing: credentials go with each request."""
