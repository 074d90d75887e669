"""Commands for operators on running processes: calls, top, doctor, config, support-bundle."""

import asyncio
import json
import re
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from calltag.core import VERSION
from parts.agent import Agent, agent
from parts.command import calltag
from parts.eventually import eventually
from parts.system import System

SYSTEMS = ["three-processes"]
SECRET = "a value that nobody may see"


@pytest.fixture
async def call(system: System) -> AsyncIterator[tuple[str, Agent]]:
    """A live call of carol with user data, and carol."""
    name = f"call-{uuid4().hex[:10]}"
    started = {"eventId": name, "eventType": "CallStarted", "id": name,
               "parties": [{"phoneNumber": "15002", "state": "Established"}]}  # fmt: skip
    async with agent(system, "switch") as switch, agent(system, "carol", "/v2/me/calls") as carol:
        assert (await switch.post("/switch/events", started, Prefer="wait=10")).status_code == 200
        attached = await carol.operate(name, "AttachUserData", prefer="wait=10", userData={"Secret": SECRET})
        assert attached["statusCode"] == 0
        carol.about = name
        yield name, carol


async def run(system: System, folder: Path, *arguments: str) -> Any:
    return await asyncio.to_thread(lambda: calltag(*arguments, cwd=folder, **system.environment))


async def test_calls_are_listed_without_values(system: System, call: tuple[str, Agent], tmp_path: Path) -> None:
    name, _ = call
    for arguments in (("--user", "carol"), ("--limit", "100000")):
        done = await run(system, tmp_path, "calls", "ls", "--json", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        [found] = [each for each in map(json.loads, done.stdout.splitlines()) if each["id"] == name]
        assert found["user_data"] == {"Secret": len(json.dumps([SECRET]))}
        assert [(each["user"], each["state"]) for each in found["parties"]] == [("carol", "Established")]
    done = await run(system, tmp_path, "calls", "ls", "--user", "carol")
    assert re.search(rf"{name} .* carol:Established +1 ", done.stdout)


async def test_one_call_is_shown(system: System, call: tuple[str, Agent], tmp_path: Path) -> None:
    name, _ = call
    done = await run(system, tmp_path, "calls", "show", name)
    assert SECRET not in done.stdout
    assert json.loads(done.stdout)["blocked_by"] is None
    done = await run(system, tmp_path, "calls", "show", name, "--values")
    assert json.loads(done.stdout)["user_data"] == {"Secret": [SECRET]}
    assert "keep it out of tickets" in done.stderr
    done = await run(system, tmp_path, "calls", "show", "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("calltag: there is no call none")


async def test_a_call_is_ended_and_its_subscribers_are_notified(
    system: System, call: tuple[str, Agent], tmp_path: Path
) -> None:
    name, carol = call
    asked = await run(system, tmp_path, "calls", "end", name)
    assert asked.returncode == 1, "it asks, and there is no answer"
    done = await run(system, tmp_path, "calls", "end", name, "--yes")
    assert (done.returncode, done.stdout) == (0, f"ended {name}\n"), done.stderr
    while (message := await carol.next_message())["data"]["call"]["state"] != "Released":
        continue
    assert message["ext"]["calltag"]["reason"] == "operator"
    again = await run(system, tmp_path, "calls", "end", name, "--yes")
    assert (again.returncode, again.stderr) == (1, f"calltag: call {name} is released already\n")


async def test_top_shows_the_processes_and_their_rates(system: System, tmp_path: Path) -> None:
    async def are_all_there() -> bool:
        done = await run(system, tmp_path, "top", "--once", "--json")
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert {each["version"] for each in found} == {VERSION}
        workers = [each for each in found if each["service"] == "worker"]
        return {each["service"] for each in found} == {"gateway", "worker", "notifier"} and bool(
            workers[0]["values"].get("partitions_owned")
        )

    await eventually(are_all_there, within_s=30)
    done = await run(system, tmp_path, "top", "--once")
    assert "applied/s" in done.stdout
    assert "all 3" in done.stdout


async def test_doctor_names_the_processes(system: System, tmp_path: Path) -> None:
    async def are_named() -> bool:
        done = await run(system, tmp_path, "doctor", "--json")
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert {each["level"] for each in found} <= {"ok", "warn"}
        texts = [each["text"] for each in found]
        return any(f"1 gateway, 1 notifier, 1 worker, version {VERSION}" in text for text in texts)

    await eventually(are_named, within_s=30)


async def test_config_shows_changes_for_programs(system: System, tmp_path: Path) -> None:
    done = await run(system, tmp_path, "config", "--changed", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = {each["variable"]: each["value"] for each in map(json.loads, done.stdout.splitlines())}
    given = {name for name in system.environment if name.startswith("CALLTAG_") and not name.startswith("CALLTAG_TEST")}
    assert set(found) == given
    assert ":***@" in found["CALLTAG_AMQP__URL"]
    refused = await run(system, tmp_path, "config", "--changed", "--all")
    assert refused.returncode == 2
    assert "exclude each other" in refused.stderr


async def test_a_support_bundle_has_no_user_data(system: System, call: tuple[str, Agent], tmp_path: Path) -> None:
    name, _ = call
    file = tmp_path / "bundle.zip"
    done = await run(system, tmp_path, "support-bundle", "--file", str(file))
    assert (done.returncode, done.stdout) == (0, f"wrote {file}\n"), done.stderr
    assert "reading doctor.json ..." in done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(file) as archive:
        parts = {each: archive.read(each) for each in archive.namelist()}
    assert {f"calltag/{each}.json" for each in ("about", "settings", "doctor", "partitions", "processes")} <= set(parts)
    everything = b"".join(parts.values()).decode()
    for unwanted in (SECRET, name, "carol", "guest:guest"):
        assert unwanted not in everything
    metrics = [content for each, content in parts.items() if each.endswith("metrics.txt")]
    assert any(b"calltag_operations_applied_total" in each for each in metrics)


async def test_a_support_bundle_of_an_outage_says_so(tmp_path: Path) -> None:
    file = tmp_path / "bundle.zip"
    nowhere = {"CALLTAG_AMQP__URL": "amqp://127.0.0.1:1/", "CALLTAG_REDIS__URL": "redis://127.0.0.1:1/0"}
    done = await asyncio.to_thread(lambda: calltag("support-bundle", "--file", str(file), cwd=tmp_path, **nowhere))
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(file) as archive:
        assert "unavailable" in json.loads(archive.read("calltag/partitions.json"))
