"""The AsyncAPI documents are valid, and that of CometD says what clients get."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from calltag.notifier.documentation import EXAMPLES
from calltag.notifier.event_views import services_event
from parts.agent import agent
from parts.documented import document, kind_of
from parts.system import System, embedded_system

ROOT = Path(__file__).parents[2]
REQUESTS = (
    "MetaHandshakeRequest",
    "MetaSubscribeRequest",
    "MetaConnectRequest",
    "MetaUnsubscribeRequest",
    "MetaDisconnectRequest",
)


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("asyncapi"), CALLTAG_LOG__LEVEL="warning") as system:
        yield system


@pytest.mark.parametrize("name", ["asyncapi.json", "asyncapi-broker.json"])
def test_the_documents_are_valid(name: str) -> None:
    schema = read("tests/clients/node_modules/@asyncapi/specs/schemas/3.0.0.json")
    jsonschema.Draft7Validator(schema).validate(read(f"docs/{name}"))


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
def test_each_example_is_of_its_schema(model: type) -> None:
    schema = {"$ref": f"#/components/schemas/{model.__name__}", "components": document()["components"]}
    jsonschema.Draft202012Validator(schema).validate(EXAMPLES[model])


async def test_each_example_of_a_request_is_answered(served: System) -> None:
    examples = {model.__name__: example for model, example in EXAMPLES.items()}
    async with agent(served, "alice") as alice:
        client_id = ""
        for name in REQUESTS:
            request = dict(examples[name]) | ({"clientId": client_id} if client_id else {})
            if name == "MetaConnectRequest":
                request["advice"] = {"timeout": 0}
            [reply] = await alice.bayeux(request)
            assert reply["successful"], reply
            assert kind_of(reply) == name.replace("Request", "Reply")
            client_id = client_id or reply["clientId"]


async def test_each_message_that_comes_is_documented(served: System) -> None:
    kinds = {kind_of({"channel": each.channel, "data": each.data}) for each in (services_event(available=False),)}
    async with (
        agent(served, "alice", "/v2/me/calls", "/v2/me/devices") as alice,
        agent(served, "carol", "/v2/users/alice/calls") as carol,
        agent(served, "admin", "/v2/calls") as admin,
    ):
        session = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
        assert (await alice.post("/me", session)).status_code == 200
        [device] = (await alice.http.get("/api/v2/me/devices?fields=*")).json()["devices"]
        dialed = {"operationName": "Dial", "destination": {"phoneNumber": "15001"}}
        call = (await alice.post(f"/me/devices/{device['id']}/calls", dialed, Prefer="wait=10")).json()["call"]["id"]
        assert (await alice.operate(call, "AttachUserData", userData={"a": 1}))["statusCode"] == 0
        assert (await alice.operate(call, "Retrieve"))["statusCode"] == 0, "the worker refuses it"
        wanted = {"CallMessage", "RefusalMessage", "DeviceMessage"}
        while not wanted <= kinds:
            kinds.add(kind_of(await alice.next_message()))
        for observer in (carol, admin):
            assert kind_of(await observer.next_message()) == "CallMessage"
        await alice.operate(call, "Hangup")
    assert kinds == {name for name in document()["components"]["messages"] if name.endswith("Message")}


def test_clients_may_send_more_than_is_described_and_the_server_does_not() -> None:
    schemas = document()["components"]["schemas"]
    for model, example in EXAMPLES.items():
        schema = {"$ref": f"#/components/schemas/{model.__name__}", "components": document()["components"]}
        is_valid = jsonschema.Draft202012Validator(schema).is_valid({**example, "unknown": 1})
        assert is_valid == model.__name__.endswith("Request"), model
    for name in ("CallResource", "CallStateChange", "CalltagOfMessage", "Advice"):
        assert schemas[name]["additionalProperties"] is False
