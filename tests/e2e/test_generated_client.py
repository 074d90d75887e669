"""A client that is generated from the OpenAPI document does the tour."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts.system import System, embedded_system

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("generated"), CALLTAG_LOG__LEVEL="warning") as system:
        yield system


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The root of the generated package, whose modules are imported by their names in it."""
    config = tmp_path / "config.yaml"
    config.write_text("post_hooks: []\n")
    generator, made = Path(sys.executable).with_name("openapi-python-client"), tmp_path / "made"
    command = [str(each) for each in (
        generator, "generate", "--path", DOCUMENT, "--output-path", made, "--config", config
    )]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert "WARNING" not in done.stdout + done.stderr, "something of the document was left out"
    monkeypatch.syspath_prepend(made)
    yield lambda name: importlib.import_module(f"calltag_client.{name}")
    for name in [each for each in sys.modules if each.startswith("calltag_client")]:
        del sys.modules[name]


def test_the_tour(served: System, client: Any) -> None:
    with client("client").Client(base_url=served.gateway_url, httpx_args={"auth": ("alice", "demo")}) as api:
        tour(client, client("models"), api)


def incoming(url: str) -> str:
    """A call that the switch reports to ring at alice's phone."""
    fact = {"eventId": "in", "eventType": "CallStarted", "id": "in", "callType": "Inbound",
            "parties": [{"phoneNumber": "+4989555", "state": "Established"},
                        {"phoneNumber": "15000", "state": "Ringing"}],
            "userData": {"AccountNumber": "12345"}}  # fmt: skip
    headers = {"Prefer": "wait=10"}
    httpx.post(f"{url}/api/v2/switch/events", json=fact, auth=("switch", "demo"), headers=headers).raise_for_status()
    return "in"


def test_a_transfer_keeps_the_data(served: System, client: Any) -> None:
    models, operate, call = client("models"), client("api.calls.operate_call"), incoming(served.gateway_url)
    make = client("client").Client
    with make(base_url=served.gateway_url, httpx_args={"auth": ("alice", "demo")}) as alice:
        destination = models.OperateCallInitiateTransferDestination(phone_number="15001")
        pairs = models.OperateCallInitiateTransferUserData.from_dict({"Reason": "billing"})
        for body in (
            models.OperateCallAnswer(operation_name="Answer"),
            models.OperateCallInitiateTransfer("InitiateTransfer", destination, pairs),
            models.OperateCallCompleteTransfer(operation_name="CompleteTransfer"),
        ):
            assert operate.sync(call, client=alice, body=body, prefer="wait=10").status_code == 0
    with make(base_url=served.gateway_url, httpx_args={"auth": ("bob", "demo")}) as bob:
        shown = client("api.calls.get_call").sync(call, client=bob).call
        assert (shown.state, shown.ani) == ("Ringing", "+4989555")
        assert shown.user_data.to_dict() == {"AccountNumber": "12345", "Reason": "billing"}
        operate.sync(call, client=bob, body=models.OperateCallReject(operation_name="Reject"), prefer="wait=10")


def tour(client: Any, models: Any, api: Any) -> None:
    user = client("api.me.get_me").sync(client=api).user
    assert (user.user_name, len(user.devices)) == ("alice", 1)
    start = models.OperateMeStartContactCenterSession(operation_name="StartContactCenterSession", channels=["voice"])
    assert client("api.me.operate_me").sync(client=api, body=start, prefer="wait=10").status_code == 0
    [device] = client("api.devices.get_devices").sync(client=api, fields=["*"]).devices
    assert (device.phone_number, device.user_state.state) == ("15000", "Ready")
    destination = models.DialDialDestination(phone_number="15001")
    dial = models.DialDial(operation_name="Dial", destination=destination)
    call = client("api.devices.dial").sync(device.id, client=api, body=dial, prefer="wait=10").call
    assert (call.state, call.call_type, call.dnis) == ("Dialing", "Internal", "15001")
    operate = client("api.calls.operate_call")
    pairs = models.OperateCallAttachUserDataUserData.from_dict({"AccountNumber": "12345"})
    attach = models.OperateCallAttachUserData(operation_name="AttachUserData", user_data=pairs)
    answer = operate.sync_detailed(call.id, client=api, body=attach, prefer="wait=10", idempotency_key="one")
    assert answer.parsed.call.user_data.to_dict() == {"AccountNumber": "12345"}
    assert answer.headers["Operation-Id"]
    refused = operate.sync(
        call.id, client=api, body=models.OperateCallRetrieve(operation_name="Retrieve"), prefer="wait=10"
    )
    assert (type(refused).__name__, refused.status_code) == ("ErrorAnswer", 2)
    shown = client("api.calls.get_call").sync(call.id, client=api).call
    assert shown.user_data.to_dict() == {"AccountNumber": "12345"}
    hangup = models.OperateCallHangup(operation_name="Hangup")
    assert operate.sync(call.id, client=api, body=hangup, prefer="wait=10").call.state == "Released"
