"""`calltag parked`, as an operator uses it."""

import asyncio
import os
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from calltag.cli.parked import parking_lot
from calltag.core.broker.ports import ParkingDetails
from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.domain.ids import CallId, OperationId
from calltag.core.domain.operations import AttachUserData, CallOperation
from calltag.core.store.calls import RedisCallReader
from parts.command import calltag
from parts.eventually import eventually
from parts.operations import ALICE, ONLY, Operations, operations
from parts.rabbitmq import RabbitMq
from parts.redis_modes import redis_of, redis_variables

ON_EACH = pytest.mark.parametrize("redis_mode", ["single", "sentinel", "cluster"], indirect=True)


@pytest.fixture
def redis_mode(request: pytest.FixtureRequest) -> dict[str, str]:
    """An empty Redis of the mode that is asked for, a single one otherwise, as the settings name it."""
    return redis_of(request, getattr(request, "param", "single"))


@pytest.fixture
async def made(rabbitmq: RabbitMq, redis_mode: dict[str, str], amqp_prefix: str) -> AsyncIterator[Operations]:
    async with operations(rabbitmq.url, redis_mode["url"], amqp_prefix, redis=redis_mode, park_after_s=0.1) as opened:
        yield opened


@pytest.fixture
def environment(made: Operations, redis_mode: dict[str, str]) -> dict[str, str]:
    settings = made.parts.settings
    return {
        "CALLTAG_AMQP__URL": settings.amqp.url.get_secret_value(),
        "CALLTAG_AMQP__PREFIX": settings.amqp.prefix,
        "CALLTAG_PARTITIONS": "1",
        **redis_variables(redis_mode),
    }


@dataclass(frozen=True)
class Ended:
    """What a command came to."""

    code: int
    out: str
    err: str


_SEVERAL = """
import contextlib, io, json, sys
from calltag.cli.main import main
ended = []
for arguments in json.loads(sys.argv[1]):
    sys.argv, out, err, code = ["calltag", "parked", *arguments], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    ended.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(ended))
"""


@dataclass(frozen=True)
class Operator:
    """Runs several commands, one after another, in one process: to start one takes longer than its work."""

    folder: Path
    environment: dict[str, str]

    async def parked(self, *commands: str) -> list[Ended]:
        arguments = orjson.dumps([command.split() for command in commands]).decode()
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", _SEVERAL, arguments],
            cwd=self.folder, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=100, check=True,
        )  # fmt: skip
        return [Ended(*each) for each in orjson.loads(done.stdout)]


@ON_EACH
async def test_what_is_parked_is_listed_shown_and_replayed(
    made: Operations, environment: dict[str, str], tmp_path: Path
) -> None:
    async with made.working():
        await made.start("C")
        await made.until_started("C")
        async with made.damaged("C", "state"):
            await made.publish("c1", "C", AttachUserData((("n", "SECRET"),)))
            await made.parts.broker.publish_operation(ONLY, b"SECRET", "junk")
            await eventually(lambda: made.metric("operations_parked_total", reason="failed_repeatedly") == 1)
            await eventually(lambda: made.metric("operations_parked_total", reason="not_an_operation") == 1)
        listed, table, shown, told, junk, asked, again, replayed = await Operator(tmp_path, environment).parked(
            "ls --json", "ls", "show c1", "show c1 --values", "show junk --json", "replay c1", "ls --json",
            "replay c1 --yes",
        )  # fmt: skip
        rows = {row["operation"]: row for row in map(orjson.loads, listed.out.splitlines())}
        assert set(rows) == {"c1", "junk"}
        facts = [rows["c1"][name] for name in ("reason", "about", "name", "sender", "blocks_call", "exception")]
        assert facts == ["failed_repeatedly", "call:C", "AttachUserData", "alice", True, "StateUnreadable"]
        assert rows["c1"]["attempts"] >= 2
        assert rows["junk"]["reason"] == "not_an_operation"
        assert all(name in table.out for name in rows)
        assert "SECRET" not in listed.out + table.out + junk.out
        assert ("SECRET" in shown.out, "(hidden)" in shown.out, '"n"' in shown.out) == (False, True, True)
        assert ("SECRET" in told.out, "values of user data" in told.err) == (True, True)
        assert (asked.code, again.out) == (1, listed.out)
        assert (replayed.code, replayed.out) == (0, "replayed c1 (call:C)\n"), replayed.err
        reader = RedisCallReader(made.parts.client, made.parts.keys, 1)

        async def unmarked() -> bool:
            return await reader.block(CallId("C")) is None

        await eventually(unmarked)
        assert await made.values("C") == ["SECRET"]


async def test_what_is_dropped_is_gone_and_so_is_a_mark_of_what_was_taken_out_otherwise(
    made: Operations, environment: dict[str, str], tmp_path: Path
) -> None:
    reader, operator = RedisCallReader(made.parts.client, made.parts.keys, 1), Operator(tmp_path, environment)
    async with made.working():
        await made.start("D")
        await made.until_started("D")
        async with made.damaged("D", "state"):
            await made.publish("d1", "D", AttachUserData((("n", "SECRET"),)))
            await eventually(lambda: made.metric("operations_parked_total", reason="failed_repeatedly") == 1)
    channel = await made.parts.broker._publishing.open_channel(confirms=False)  # type: ignore[attr-defined]
    await (await channel.get_queue(f"{environment['CALLTAG_AMQP__PREFIX']}.ops.dead", ensure=False)).purge()
    await made.parts.broker.park(b"SECRET", "junk", ParkingDetails("not_an_operation", "", ONLY, 1, 1))
    listed, table, lost, junk, dropped, gone, unclear, empty = await operator.parked(
        "ls --json", "ls", "replay d1 --yes", "drop junk --yes", "drop --all --yes", "drop d1 --yes", "drop --yes", "ls"
    )
    parked, stray = map(orjson.loads, listed.out.splitlines())
    assert parked["operation"] == "junk"
    assert (stray["operation"], stray["about"], stray["parked"]) == ("d1", "call:D", False)
    assert "not parked, or no longer" in table.out
    assert (lost.code, "calltag parked ls" in lost.err) == (1, True)
    assert (junk.out, dropped.out, gone.code) == ("dropped junk\n", "dropped d1\n", 1)
    assert "name an operation or say --all" in unclear.err
    assert empty.out == "nothing is parked\n"
    assert await reader.block(CallId("D")) is None


async def test_of_what_is_parked_only_what_is_wanted_is_kept_in_memory(made: Operations) -> None:
    parking = ParkingDetails("failed_repeatedly", "", ONLY, 1, 1)
    large = AttachUserData((("n", "x" * 60_000),))
    names = [f"p{number}" for number in range(50)]
    for name in names:
        operation = CallOperation(OperationId(name), CallId("P"), large, 1, ALICE)
        await made.parts.broker.park(OPERATION.encode(OperationMessage(operation=operation)), name, parking)
    async with parking_lot(made.parts.settings) as lot:
        tracemalloc.start()
        try:
            found = (await lot.found()).parked
            kept_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert [each.operation_id for each in found] == names
    assert (min(each.size_bytes for each in found) > 60_000, kept_bytes < 2_000_000) == (True, True)
    async with parking_lot(made.parts.settings) as lot:
        one = await lot.one("p7")
    assert (one.operation_id, len(one.body)) == ("p7", one.size_bytes)
    async with parking_lot(made.parts.settings) as lot:
        assert [each.operation_id for each in await lot.replay(None)] == names
    taken: list[str] = []
    async with made.parts.broker.partition(ONLY, 100) as consumer:
        while len(taken) < len(names):
            taken += [each.message_id for each in await consumer.batch(100)]
    assert taken == names


def test_without_rabbitmq_it_says_what_an_embedded_instance_does(unused_tcp_port: int, tmp_path: Path) -> None:
    away = calltag("parked", "ls", cwd=tmp_path, CALLTAG_AMQP__URL=f"amqp://127.0.0.1:{unused_tcp_port}/")
    assert (away.returncode, "has its broker inside its process" in away.stderr) == (1, True)


def test_without_the_queue_it_says_how_to_make_it(rabbitmq: RabbitMq, redis_url: str, tmp_path: Path) -> None:
    environment = {"CALLTAG_AMQP__URL": rabbitmq.url, "CALLTAG_AMQP__PREFIX": "never", "CALLTAG_REDIS__URL": redis_url}
    missing = calltag("parked", "ls", cwd=tmp_path, **environment)
    assert (missing.returncode, "calltag topology apply" in missing.stderr) == (1, True), missing.stderr
