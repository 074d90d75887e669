"""The commands `calltag parked ...`."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from calltag.cli.parked import ParkedFound, ParkedOperations
    from calltag.core.settings import Settings

parked_app = typer.Typer(
    help="Parked operations, which failed repeatedly: list, replay or drop them. For example: calltag parked ls",
    no_args_is_help=True,
)
T = TypeVar("T")
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Wanted = Annotated[str | None, typer.Argument(help="The operation, as `calltag parked ls` names it.")]
All = Annotated[bool, typer.Option("--all", help="All parked operations.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@parked_app.command("ls")
def parked_ls(*, as_json: AsJson = False) -> None:
    """List the parked operations, oldest first, with reason and call.

    Needs CALLTAG_AMQP__URL and CALLTAG_REDIS__URL. Nothing is removed: each message is fetched and requeued in its
    place, and is hidden from a second `calltag parked` meanwhile. A blocked call refuses operations until the parked
    one is replayed or dropped. For example:

        calltag parked ls --json
    """
    from calltag.cli.output import print_json, print_table

    found = _with_lot(lambda lot: lot.found())
    if as_json:
        print_json(_rows(found))
    elif found.parked or found.stray:
        print_table(_table(found))
    else:
        typer.echo("nothing is parked")


@parked_app.command("show")
def parked_show(
    operation: Annotated[str, typer.Argument(help="The operation, as `calltag parked ls` names it.")],
    *,
    values: Annotated[
        bool, typer.Option("--values", help="Show the values of user data as well. They may be confidential.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one parked operation: why it failed, how often, since when. Values of user data are hidden.

    Needs CALLTAG_AMQP__URL and CALLTAG_REDIS__URL. Fails if it is not parked. For example:

        calltag parked show 0123456789abcdef0123456789abcdef
    """
    import orjson

    from calltag.cli.output import print_json
    from calltag.cli.parked import public

    if values:
        typer.echo("calltag: what follows has values of user data; keep it out of tickets and logs", err=True)
    row = public(_with_lot(lambda lot: lot.one(operation)), values=values)
    if as_json:
        print_json([row])
        return
    for name, value in row.items():
        typer.echo(f"{name}: {orjson.dumps(value).decode() if isinstance(value, dict) else value}")


@parked_app.command("replay")
def parked_replay(operation: Wanted = None, *, all_of_them: All = False, yes: Yes = False) -> None:
    """Requeue a parked operation and those parked behind it. It keeps its id, and takes effect once.

    Fix the cause first. Its call is unblocked in the step in which it takes effect; if it fails again, it is parked
    again. One that blocked no call takes effect after later operations of its call.
    Needs CALLTAG_AMQP__URL and CALLTAG_REDIS__URL. For example:

        calltag parked replay 0123456789abcdef0123456789abcdef --yes
    """
    _check(operation, all_of_them=all_of_them)
    _confirm(f"Requeue {operation or 'all parked operations'}?", yes=yes)
    for each in _with_lot(lambda lot: lot.replay(operation)):
        typer.echo(f"replayed {each.operation_id} ({each.key or 'not readable'})")


@parked_app.command("drop")
def parked_drop(operation: Wanted = None, *, all_of_them: All = False, yes: Yes = False) -> None:
    """Delete a parked operation for good, and unblock its call.

    Operations parked behind it stay parked. Needs CALLTAG_AMQP__URL and CALLTAG_REDIS__URL. For example:

        calltag parked drop 0123456789abcdef0123456789abcdef --yes
    """
    _check(operation, all_of_them=all_of_them)
    _confirm(f"Delete {operation or 'all parked operations'}?", yes=yes)
    for each in _with_lot(lambda lot: lot.drop(operation)):
        typer.echo(f"dropped {each}")


def _with_lot(work: "Callable[[ParkedOperations], Awaitable[T]]") -> T:
    from calltag.cli.configuration import command_settings
    from calltag.cli.parked import parking_lot

    async def run(settings: "Settings") -> T:
        async with parking_lot(settings) as lot:
            return await work(lot)

    return asyncio.run(run(command_settings("parked")))


def _check(operation: str | None, *, all_of_them: bool) -> None:
    if (operation is None) != all_of_them:
        raise typer.BadParameter("name an operation or say --all, one of them")


def _confirm(question: str, *, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True)


def _rows(found: "ParkedFound") -> Iterator[object]:
    from calltag.cli.parked import public

    for each in found.parked:
        row = public(each)
        del row["content"]
        yield row
    for key, block in found.stray.items():
        stray = {"operation": block.operation_id, "reason": block.reason, "about": key, "blocks_call": True}
        yield {**stray, "failed_ms": block.at_ms, "parked": False}


def _table(found: "ParkedFound") -> "Table":
    from rich.table import Table

    from calltag.cli.parked import public

    table = Table("operation", "reason", "about", "name", "sender", "blocks call", "attempts", "parked at", box=None)
    for each in found.parked:
        row = public(each)
        table.add_row(
            each.operation_id, row["reason"], row["about"], row["name"], row["sender"],
            "yes" if each.blocks_call else "", str(row["attempts"]), _at(row["failed_ms"]),
        )  # fmt: skip
    for key, block in found.stray.items():
        table.add_row(
            block.operation_id, f"{block.reason}, not parked, or no longer", key, "", "", "yes", "", _at(block.at_ms)
        )
    return table


def _at(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="seconds") if unix_ms else ""
