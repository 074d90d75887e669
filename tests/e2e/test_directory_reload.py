"""The file of users is read again when it changes: who may still come in goes on, the others do not."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher

from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.system import System, embedded_system

HASHES = {
    password: PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(password) for password in ("demo", "new")
}
NUMBERS = {"alice": "15000", "bob": "15001", "carol": "15002", "switch": "15009", "erin": "15005"}


def user(name: str, password: str = "demo", **more: str) -> str:
    """An entry of the file."""
    fields = {
        "id": f'"{name}"',
        "password_hash": f'"{HASHES[password]}"',
        "features": '["api-voice"]',
        "devices": f'[{{ id = "device-of-{name}", number = "{NUMBERS[name]}" }}]',
        **more,
    }
    return "\n".join(["[[users]]", *(f"{name} = {value}" for name, value in fields.items())])


class File:
    """The file of a running system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *users: str) -> None:
        """Replace it as a whole."""
        new = self.path.with_suffix(".new")
        new.write_text("\n\n".join([user("switch", roles='["switch"]'), *users]))
        new.rename(self.path)


@pytest.fixture
def file(tmp_path: Path) -> File:
    made = File(tmp_path / "centre.toml")
    made.write(user("alice", supervisors='["carol"]'), user("bob"), user("carol", roles='["agent", "supervisor"]'))
    return made


@pytest.fixture
def centre(tmp_path: Path, file: File) -> Iterator[System]:
    settings = {"CALLTAG_DIRECTORY__DEMO": "false", "CALLTAG_DIRECTORY__FILE": str(file.path)}
    with embedded_system(tmp_path / "system", **settings) as running:
        yield running


async def status(centre: System, name: str, password: str) -> int:
    async with httpx.AsyncClient(base_url=centre.gateway_url) as client:
        return (await client.get("/api/v2/me", auth=(name, password))).status_code


async def begin(switch: Agent, call: str) -> None:
    parties = [{"phoneNumber": NUMBERS[name], "state": "Established"} for name in ("alice", "bob")]
    fact: Any = {"eventId": call, "eventType": "CallStarted", "id": call, "parties": parties}
    assert (await switch.post("/switch/events", fact, Prefer="wait=10")).json() == {"statusCode": 0}


async def test_users_come_go_and_get_new_passwords(centre: System, file: File) -> None:
    async with (
        agent(centre, "switch") as switch,
        agent(centre, "alice", "/v2/me/calls") as alice,
        agent(centre, "bob", "/v2/me/calls") as bob,
    ):
        await begin(switch, "C1")
        assert (await alice.next_message())["data"]["call"]["id"] == "C1"
        session = alice.client_id
        assert await status(centre, "erin", "demo") == 401
        file.write(user("alice"), user("bob", "new"), user("erin"))

        async def is_read() -> bool:
            return await status(centre, "erin", "demo") == 200

        await eventually(is_read)
        assert [await status(centre, "bob", each) for each in ("demo", "new")] == [401, 200]
        assert await status(centre, "carol", "demo") == 401
        # The cookie of alice and her CometD session go on.
        assert (await alice.http.get("/api/v2/me", auth=None)).status_code == 200
        assert (await alice.operate("C1", "AttachUserData", userData={"a": 1})) == {"statusCode": 0}
        assert (await alice.next_message())["data"]["call"]["userData"] == {"a": 1}
        assert alice.client_id == session
        # Those of bob, who has another password, do not.
        assert (await bob.http.get("/api/v2/me")).status_code == 401

        async def is_over() -> bool:
            connect = {"channel": "/meta/connect", "clientId": bob.client_id, "connectionType": "long-polling"}
            return not (await bob.bayeux(connect | {"advice": {"timeout": 0}}))[-1]["successful"]

        await eventually(is_over)


async def test_an_invalid_file_changes_nothing_and_says_so(centre: System, file: File) -> None:
    file.path.write_text("[[users]]\nid = 7\n")
    await eventually(lambda: "directory_not_reloaded" in centre.logs())
    assert await status(centre, "alice", "demo") == 200
    file.path.unlink()
    assert await status(centre, "alice", "demo") == 200
    file.write(user("erin"))

    async def is_read() -> bool:
        return await status(centre, "erin", "demo") == 200

    await eventually(is_read)
    assert await status(centre, "alice", "demo") == 401


async def test_a_hangup_reads_it_at_once(centre: System, file: File) -> None:
    kept = file.path.stat()
    text = file.path.read_text()
    # A file whose time and size are those of before, in the same place.
    file.path.write_text(text.replace('id = "bob"', 'id = "ben"'))
    os.utime(file.path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    [process] = centre.programs.values()
    process.signal(signal.SIGHUP)

    async def is_read() -> bool:
        return await status(centre, "ben", "demo") == 200

    await eventually(is_read)
    assert "directory_reloaded" in centre.logs()
