"""Clients that are not CometD's own: Faye's for JavaScript, and one for Python."""

import base64

import aiocometd_ng
import pytest

from clients.js_client import js_client
from e2e.test_official_clients import TRANSPORTS, begin
from parts.agent import agent
from parts.documented import kind_of
from parts.system import System

SYSTEMS = ("one-process", "three-notifiers-behind-haproxy")


@TRANSPORTS
async def test_the_client_of_faye(system: System, transport: str, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "bob") as bob, js_client("faye") as client:
        await client.sign_in(f"{system.cometd_url}/genesys/cometd", transport, "bob")
        assert (await client.next("connecting"))["connectionType"] == transport
        await client.do(subscribe="/v2/me/calls")
        assert (await client.next("subscribe"))["successful"]
        await begin(switch, call_id)
        assert (await client.next("event"))["data"]["notificationType"] == "StatusChange"
        for number in range(30):
            assert await bob.operate(call_id, "AttachUserData", userData={"n": number}) == {"statusCode": 0}
        while client.versions()[-1:] != [31]:
            await client.next("event")
        assert [event["ext"]["calltag"]["version"] for event in client.events] == list(range(1, 32))
        assert client.handshakes == 1
        await client.do(unsubscribe="/v2/me/calls")
        assert (await client.next("unsubscribe"))["successful"]
        await client.do(disconnect=True)
        assert (await client.next("disconnect"))["successful"]


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
        await bob.operate(call_id, "AttachUserData", userData={"a": 1})
        told = [await client.receive() for _ in range(2)]
        assert [kind_of(each) for each in told] == ["CallMessage", "CallMessage"]
        assert [each["data"]["notificationType"] for each in told] == ["StatusChange", "AttachedDataChanged"]
        assert told[1]["data"]["call"]["userData"] == {"a": 1}


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
