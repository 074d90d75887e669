"""The commands `calltag calls ...`."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from calltag.cli.calls import ListedCall

calls_app = typer.Typer(
    help="Live calls: list them, show one, end one. For example: calltag calls ls --user alice", no_args_is_help=True
)
CallIdArgument = Annotated[str, typer.Argument(help="The call, as `calltag calls ls` names it.")]


@calls_app.command("ls")
def calls_ls(
    *,
    user: Annotated[str | None, typer.Option("--user", help="Only calls of this user.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Calls to list.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the live calls with parties, age and number of keys; of each partition those first that change least.

    Needs CALLTAG_REDIS__URL and CALLTAG_PARTITIONS, and changes nothing. Values of user data are not shown. For
    example:

        calltag calls ls --user alice
    """
    from calltag.cli.calls import calls, public, table_of
    from calltag.cli.configuration import command_settings
    from calltag.cli.output import print_json, print_table

    async def listed() -> "list[ListedCall]":
        rows: list[ListedCall] = []
        async with calls(command_settings("calls")) as found:
            async for each in found.live(user):
                rows.append(each)
                if len(rows) > limit:
                    break
        return rows

    rows = asyncio.run(listed())
    if as_json:
        print_json(public(each) for each in rows[:limit])
    elif rows:
        print_table(table_of(rows[:limit]))
    else:
        typer.echo("there are no live calls")
    if len(rows) > limit:
        typer.echo(f"there are more than {limit} calls: --limit lists more, --user those of one user", err=True)


@calls_app.command("show")
def calls_show(
    call: CallIdArgument,
    *,
    values: Annotated[
        bool, typer.Option("--values", help="Show the values of user data as well. They may be confidential.")
    ] = False,
) -> None:
    """Show one call as JSON: parties, version, keys of its user data with their bytes, and the block if it has one.

    Needs CALLTAG_REDIS__URL and CALLTAG_PARTITIONS. Fails if the call does not exist. For example:

        calltag calls show 0070027e8a1c1001
    """
    import orjson

    from calltag.cli.calls import ListedCall, calls, public
    from calltag.cli.configuration import command_settings

    async def wanted() -> ListedCall:
        async with calls(command_settings("calls")) as found:
            return await found.one(call)

    if values:
        typer.echo("calltag: what follows has values of user data; keep it out of tickets and logs", err=True)
    typer.echo(orjson.dumps(public(asyncio.run(wanted()), values=values), option=orjson.OPT_INDENT_2).decode())


@calls_app.command("end")
def calls_end(
    call: CallIdArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """End a call that the switch has forgotten, as if the switch had ended it. Its subscribers get the usual messages.

    calltag does not control the switch: a call that still goes on there goes on. Needs CALLTAG_AMQP__URL,
    CALLTAG_REDIS__URL and CALLTAG_PARTITIONS, and a running worker. For example:

        calltag calls end 0070027e8a1c1001
    """
    from calltag.cli.calls import calls
    from calltag.cli.configuration import command_settings

    if not yes:
        typer.confirm(f"End call {call}?", abort=True)

    async def end() -> None:
        async with calls(command_settings("calls")) as found:
            await found.end(call)

    asyncio.run(end())
    typer.echo(f"ended {call}")
