"""Backup and restore, as docs/backup.md describes them: calls go on with the data of the backup."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

from parts.agent import agent
from parts.command import calltag
from parts.processes import program
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

CALL = "backed-up"


def redis_cli(store: RedisServer, *arguments: str) -> str:
    command = [program("redis-cli"), "-p", str(store.port), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def server(folder: Path, *more: str) -> RedisServer:
    folder.mkdir()
    started = RedisServer(folder, *more)
    started.start()
    return started


async def start_call(system: System) -> None:
    party = {"phoneNumber": "15000", "state": "Established"}
    started = {"eventId": "1", "eventType": "CallStarted", "id": CALL, "parties": [party]}
    async with agent(system, "switch") as switch:
        assert (await switch.post("/switch/events", started, Prefer="wait=10")).status_code == 200


async def attach(system: System, **data: str) -> dict[str, Any]:
    async with agent(system, "alice") as alice:
        done = await alice.operate(CALL, "AttachUserData", prefer="wait=10", userData=data)
        assert done["statusCode"] == 0, done
        found: dict[str, Any] = done["call"]["userData"]
        return found


async def test_a_restored_installation_goes_on_with_the_data_of_the_backup(tmp_path: Path, rabbitmq: RabbitMq) -> None:
    first = server(tmp_path / "redis")
    file = tmp_path / "calltag.rdb"
    try:
        with three_processes(tmp_path / "before", rabbitmq.url, first.url, f"b{uuid4().hex[:8]}") as system:
            await start_call(system)
            await attach(system, before="backup")
            await asyncio.to_thread(redis_cli, first, "--rdb", str(file))
            await attach(system, after="backup")
    finally:
        first.process.kill()
    second = server(tmp_path / "restored", "--appendonly", "no", "--dbfilename", file.name)
    second.process.kill()
    (tmp_path / "restored" / file.name).write_bytes(file.read_bytes())
    second.start()
    redis_cli(second, "CONFIG", "SET", "appendonly", "yes")
    try:
        # RabbitMQ begins anew: another prefix has no queues yet.
        with three_processes(tmp_path / "after", rabbitmq.url, second.url, f"b{uuid4().hex[:8]}") as system:
            assert await attach(system, more="data") == {"before": "backup", "more": "data"}
            told = await asyncio.to_thread(lambda: calltag("doctor", cwd=tmp_path, **system.environment))
            assert told.returncode == 0, told.stdout
            assert "appendonly off" not in told.stdout
    finally:
        second.process.kill()
