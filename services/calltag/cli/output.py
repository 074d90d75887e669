"""Findings, tables and JSON on the terminal."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import orjson
import typer
from rich.console import Console
from rich.table import Table

_FILE_COLUMNS: Final = 200


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal; wide enough for all columns where the output is no terminal."""
    Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS).print(table)


def show_table(table: Table, *, clear: bool) -> None:
    """Print a table; on a terminal, with `clear`, in place of all that is on it."""
    if clear and sys.stdout.isatty():
        Console().clear()
    print_table(table)


def print_json(rows: Iterable[object]) -> None:
    """Print one JSON document per line."""
    for row in rows:
        typer.echo(orjson.dumps(row).decode())


class Grade(Enum):
    """Grade of a finding, as printed: BAD keeps calltag from working, and makes the exit code 1."""

    OK = "ok   "
    WARN = "warn "
    BAD = "bad  "


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, as a sentence for operators."""

    grade: Grade
    text: str

    @property
    def line(self) -> str:
        """The printed line."""
        return f"{self.grade.value}  {self.text}"


def ok(text: str) -> Finding:
    """Return a finding that all is as it should be, or not relevant."""
    return Finding(Grade.OK, text)


def warn(text: str) -> Finding:
    """Return a finding that something works, but is not recommended."""
    return Finding(Grade.WARN, text)


def bad(text: str) -> Finding:
    """Return a finding that something does not work."""
    return Finding(Grade.BAD, text)


def version_finding(name: str, version: str, least: tuple[int, int]) -> Finding:
    """Return a finding on the version, as in `3.10.8` or `4.2.0-rc.1`: BAD if it is too old."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    needed = ".".join(map(str, least))
    if numbers is None:
        return ok(f"{name} is reachable and does not report its version; calltag needs {needed} or newer")
    if (int(numbers[1]), int(numbers[2])) < least:
        return bad(f"{name} {version} is reachable; calltag needs {needed} or newer")
    return ok(f"{name} {version} is reachable")
