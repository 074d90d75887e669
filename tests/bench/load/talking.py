"""Processes that are spoken with in lines of JSON, and that end with whoever started them."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.load.subscribers import Expected, Plan

_TESTS = Path(__file__).resolve().parents[2]
_LONGEST_LINE = 1 << 24


class Broken(RuntimeError):
    """A process did not answer as it should."""


class Talking:
    """A process in a session of its own."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    async def heard(self, within_s: float = 60.0) -> str:
        """The next line that it writes. Raises Broken."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise Broken(f"{self._name} said nothing for {within_s:g} s") from None
        if not line:
            raise Broken(f"{self._name} ended")
        return line.decode().rstrip()


@asynccontextmanager
async def talking(
    name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[Talking]:
    """Start it; it is ended in any case."""
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **(environment or {})}, limit=_LONGEST_LINE, start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Talking(process, name)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


class Subscribers:
    """Sessions that are subscribed, in a process of their own."""

    def __init__(self, process: Talking) -> None:
        self._process = process

    async def expect(self, expected: Expected) -> None:
        """Tell what is to come, before it is published. Raises Broken."""
        self._process.say(asdict(expected))
        answer = await self._answer(within_s=60)
        if "expected" not in answer:
            raise Broken(f"subscribers: {answer}")

    async def came(self, within_s: float = 60.0) -> int:
        """Wait until one more of the groups has come whole; returns which. Raises Broken."""
        answer = await self._answer(within_s)
        if "came" not in answer:
            raise Broken(f"subscribers: {answer}")
        return int(answer["came"])

    async def _answer(self, within_s: float) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(await self._process.heard(within_s))
        except Broken as error:
            self._process.say({"missing": True})
            with contextlib.suppress(Broken):
                raise Broken(f"{error}; still to come: {await self._process.heard(5)}") from None
            raise
        return answer


@asynccontextmanager
async def subscribers(plan: Plan) -> AsyncIterator[Subscribers]:
    """Begin the sessions; a connect of each is held. Raises Broken."""
    command = [sys.executable, "-m", "bench.load.subscribers"]
    async with talking("subscribers", command, {"PYTHONPATH": str(_TESTS)}) as process:
        process.say(asdict(plan))
        answer = json.loads(await process.heard(within_s=180))
        if answer != {"ready": len(plan.sessions)}:
            raise Broken(f"subscribers: {answer}")
        yield Subscribers(process)


class Resumers:
    """Sessions that go on elsewhere when their node dies, in a process of their own."""

    def __init__(self, process: Talking) -> None:
        self._process = process

    async def resumed(self, within_s: float = 180.0) -> float:
        """Wait until all have gone on; returns how many seconds after the first was lost. Raises Broken."""
        answer = json.loads(await self._process.heard(within_s))
        if "resumed" not in answer:
            raise Broken(f"sessions that resume: {answer}")
        return float(answer["seconds"])


@asynccontextmanager
async def resuming(plan: Plan, port: int) -> AsyncIterator[Resumers]:
    """Begin the sessions; they go on at the other port. Raises Broken."""
    command = [sys.executable, "-m", "bench.load.resuming"]
    async with talking("sessions that resume", command, {"PYTHONPATH": str(_TESTS)}) as process:
        process.say({"plan": asdict(plan), "port": port})
        answer = json.loads(await process.heard(within_s=180))
        if answer != {"ready": len(plan.sessions)}:
            raise Broken(f"sessions that resume: {answer}")
        yield Resumers(process)
