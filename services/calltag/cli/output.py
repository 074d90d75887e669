"""Rows of a command's result, for a terminal or for a program."""

import sys
from collections.abc import Iterable
from typing import Final

import orjson
import typer
from rich.console import Console
from rich.table import Table

_FILE_COLUMNS: Final = 200


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal; wide enough for all columns where the output is no terminal."""
    Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS).print(table)


def print_json(rows: Iterable[object]) -> None:
    """Print one JSON document per line."""
    for row in rows:
        typer.echo(orjson.dumps(row).decode())
