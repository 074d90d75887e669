"""Programs of the bench in processes of their own: those that serve, and those that work and tell what it took."""

import asyncio
import json
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.figures import Sample
from bench.load.posts import Outcome, Plan
from parts.command import UNMEASURED
from parts.processes import Program

TESTS = Path(__file__).resolve().parent.parent


class ChildFailed(RuntimeError):
    """A program ended otherwise than it should."""


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**UNMEASURED, "PYTHONPATH": str(TESTS), **more}


@contextmanager
def serving(folder: Path, module: str, *arguments: str, port: int, **more: str) -> Iterator[Program]:
    """A server that runs inside; ready once it takes connections."""
    folder.mkdir(parents=True, exist_ok=True)
    program = Program([sys.executable, "-m", module, *arguments], folder, _environment(more))
    try:
        program.start(lambda: listens(port))
        yield program
    finally:
        program.kill()


@contextmanager
def running(folder: Path, module: str, *arguments: str, ready: str, **more: str) -> Iterator[Program]:
    """A program that runs inside; ready once it has printed `ready`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = Program([sys.executable, "-u", "-m", module, *arguments], folder, _environment(more))
    try:
        program.start(lambda: ready in program.text())
        yield program
    finally:
        program.kill()


def listens(port: int) -> bool:
    """Whether somebody listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


async def told_by(module: str, *arguments: str, plan: object = None, within_s: float = 300.0) -> Any:
    """Run a program to its end; returns the JSON that it prints. Raises ChildFailed."""
    import os

    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, env={**os.environ, **_environment({})}, cwd=TESTS,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(within_s):
            out, errors = await child.communicate(json.dumps(plan).encode())
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise ChildFailed(f"{module} failed:\n{errors.decode(errors='replace')[-3000:]}")
    return json.loads(out)


async def worked(module: str, *arguments: str) -> Sample:
    """The sample that a program takes of itself."""
    return Sample(**await told_by(module, *arguments))


async def posted(plan: Plan) -> Outcome:
    """What came of sending operations."""
    return Outcome(**await told_by("bench.load.posts", plan=asdict(plan)))
