"""`calltag sessions`, as an operator uses it while clients are connected."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import CompletedProcess

import orjson
import pytest

from calltag.core.store.client_ids import handle_of
from parts.agent import Agent, agent
from parts.command import calltag
from parts.system import System

SYSTEMS = ("three-processes",)


def sessions(system: System, *arguments: str) -> CompletedProcess[str]:
    return calltag("sessions", *arguments, cwd=system.folder, **system.environment)


@asynccontextmanager
async def held(other: Agent) -> "AsyncIterator[asyncio.Task[list[dict[str, object]]]]":
    """A connect of the agent's while the context is open, which keeps the session alive; its answer, whatever it is."""
    message = {"channel": "/meta/connect", "clientId": other.client_id, "connectionType": "long-polling"}
    connect = asyncio.create_task(other.bayeux(message))
    try:
        yield connect
    finally:
        connect.cancel()
        await asyncio.gather(connect, return_exceptions=True)


async def test_ls_and_show(system: System) -> None:
    # A session that does not connect ends, and on a busy machine the commands take their time.
    async with agent(system, "dave", "/v2/me/calls", "/v2/me/devices") as dave, dave.listening():
        listed = await asyncio.to_thread(sessions, system, "ls", "--user", "dave", "--json")
        rows = [orjson.loads(line) for line in listed.stdout.splitlines()]
        [row] = [each for each in rows if each["session"] == handle_of(dave.client_id)]
        assert (row["user"], row["subscriptions"]) == ("dave", ["/v2/me/calls", "/v2/me/devices"])
        assert (row["connects"] >= 1, row["acknowledges"], row["unsent"]) == (True, False, 0)
        assert row["holder"].startswith("notifier-")
        assert dave.client_id not in listed.stdout
        everybody = await asyncio.to_thread(sessions, system, "ls")
        assert row["session"] in everybody.stdout
        shown = await asyncio.to_thread(sessions, system, "show", row["session"])
        assert "user: dave" in shown.stdout
        assert dave.client_id not in shown.stdout


@pytest.mark.parametrize("by", ["handle", "user"])
async def test_close_tells_the_client(system: System, by: str) -> None:
    async with agent(system, "dave", "/v2/me/calls") as dave, held(dave) as waiting:
        handle = handle_of(dave.client_id)
        named = [handle] if by == "handle" else ["--user", "dave"]
        closed = await asyncio.to_thread(sessions, system, "close", *named)
        assert f"closed {handle} of dave" in closed.stdout, closed.stderr
        farewell, reply = await waiting
        assert (farewell["channel"], farewell["successful"]) == ("/meta/disconnect", True)
        assert reply["advice"]["reconnect"] == "none"  # type: ignore[index]
        again = await asyncio.to_thread(sessions, system, "close", handle)
        assert (again.returncode, "calltag sessions ls" in again.stderr) == (1, True)


def test_what_is_asked_wrongly_is_said(system: System) -> None:
    assert sessions(system, "ls", "--user", "nobody").stdout.strip() == "there are no sessions"
    none = sessions(system, "close", "--user", "nobody")
    assert (none.returncode, none.stdout.strip()) == (0, "nobody has no sessions")
    assert "name a session or a user" in sessions(system, "close").stderr
    gone = calltag(
        "sessions", "ls", cwd=system.folder, **{**system.environment, "CALLTAG_REDIS__URL": "redis://127.0.0.1:1"}
    )
    assert (gone.returncode, gone.stderr.startswith("calltag: Redis is not usable")) == (1, True)


async def test_close_says_so_where_the_broker_is_away(system: System) -> None:
    async with agent(system, "dave", "/v2/me/calls") as dave, held(dave):
        away = {**system.environment, "CALLTAG_AMQP__URL": "amqp://127.0.0.1:1/"}
        arguments = ("sessions", "close", handle_of(dave.client_id))
        told = await asyncio.to_thread(calltag, *arguments, cwd=system.folder, **away)
        assert (told.returncode, "RabbitMQ was not reached" in told.stderr) == (1, True), told.stderr
