"""A client that is generated from the OpenAPI document does the tour."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
