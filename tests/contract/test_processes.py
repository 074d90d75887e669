"""The registry of running processes."""

import asyncio
from dataclasses import replace

import pytest

from calltag.core import VERSION
from calltag.core.process.instance import instance_name
from calltag.core.store import processes as module
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.processes import RedisProcesses, RunningProcess, keep_registered, this_process
from parts.eventually import eventually

KEYS = Keys("t")


@pytest.fixture
def registry(client: RedisClient) -> RedisProcesses:
    return RedisProcesses(client, KEYS)


def process(service: str) -> RunningProcess:
    return this_process(instance_name(), service, 9090)


async def test_processes_are_listed_by_service(registry: RedisProcesses) -> None:
    worker, gateway = process("worker"), process("gateway")
    await registry.renew(worker, {"operations_applied": 3})
    await registry.renew(gateway, {})
    found = await registry.running()
    assert [each.instance for each in found] == [gateway.instance, worker.instance]
    assert found[1].values == {"operations_applied": 3}
    assert {each.version for each in found} == {VERSION}
    assert abs(found[0].clock_ahead_ms) < 2_000
    await registry.leave(worker)
    assert [each.service for each in await registry.running()] == ["gateway"]


async def test_a_crashed_process_is_listed_for_seconds_alone(
    registry: RedisProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.renew(process("worker"), {})
    monkeypatch.setattr(module, "_LIVES_MS", -1)
    assert await registry.running() == []


async def test_crashed_processes_are_forgotten(
    registry: RedisProcesses, client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.renew(process("worker"), {})
    await registry.forget_crashed()
    assert await client.execute("HLEN", KEYS.processes()) == 1
    await client.execute("HSET", KEYS.processes(), "other", '{"of": "another version"}')
    assert len(await registry.running()) == 1
    monkeypatch.setattr(module, "_FORGOTTEN_MS", -1)
    await registry.forget_crashed()
    assert await client.execute("HLEN", KEYS.processes()) == 0


async def test_a_process_is_registered_until_its_end(registry: RedisProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.01)
    counts = iter(range(1_000_000))
    own = process("notifier")
    task = asyncio.create_task(keep_registered(registry, own, lambda: {"deliveries": next(counts)}))

    async def is_renewed() -> bool:
        found = await registry.running()
        return bool(found) and found[0].values["deliveries"] >= 2

    await eventually(is_renewed)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await registry.running() == []


def test_names_are_of_the_machine_and_of_this_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "calltag-worker-7d9f.example.com")
    one, other = instance_name(), instance_name()
    assert one != other
    assert one.startswith("calltag-worker-7d9f-example-com-")
    monkeypatch.setattr("socket.gethostname", lambda: "é" * 300)
    assert instance_name().startswith("unknown-")
    monkeypatch.setattr("socket.gethostname", lambda: "a" * 300)
    assert len(instance_name()) < 100


def test_a_process_that_cannot_find_its_address_names_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> str:
        raise OSError

    monkeypatch.setattr("socket.gethostbyname", fail)
    own = process("worker")
    assert own == replace(own, address="127.0.0.1")
