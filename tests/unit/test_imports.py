"""Modules that a command imports: an import of everything takes most of the time of a short command."""

import os
import subprocess
import sys

import pytest

from parts.command import UNMEASURED

SERVICES = {"calltag.gateway", "calltag.worker", "calltag.notifier", "fastapi"}
BACKENDS = {"aio_pika", "redis", "starlette"}
SETTINGS = {"pydantic_settings", "structlog"}


def modules_after(code: str) -> set[str]:
    """Return the modules of a new process that has run the code, however it ended."""
    script = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {code}"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **UNMEASURED}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    return set(done.stderr.split())


def command(*arguments: str) -> str:
    return f"sys.argv = {['calltag', *arguments]}; from calltag.cli.main import main; main()"


@pytest.mark.parametrize(
    ("code", "unneeded"),
    [
        (command("--version"), SERVICES | BACKENDS | SETTINGS | {"rich.table"}),
        (command("parked", "ls", "--help"), SERVICES | BACKENDS | SETTINGS),
        (command("config"), SERVICES | BACKENDS),
        ("import calltag.cli.doctor, calltag.cli.configuration", SERVICES),
        ("import calltag.cli.serving", SERVICES),
        ("import calltag.worker.app", SERVICES - {"calltag.worker"}),
        ("import calltag.notifier.app", SERVICES - {"calltag.notifier"}),
    ],
)
def test_a_command_imports_only_what_it_needs(code: str, unneeded: set[str]) -> None:
    assert modules_after(code) & unneeded == set()
