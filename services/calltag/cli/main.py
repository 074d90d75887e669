"""The command `calltag`. Each command imports what it needs when it runs: most need a small part."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calltag.cli.parked_commands import parked_app
from calltag.core import VERSION
from calltag.core.runtime.garbage import collect_less_often

if TYPE_CHECKING:
    from calltag.core.store.session_list import ListedSession

app = typer.Typer(
    name="calltag",
    help="Attached data of live calls: the Web Services v2 API over RabbitMQ, Redis and CometD.\n\n"
    "To try it with nothing installed: calltag serve --embedded --demo\n\n"
    "For real: calltag topology apply, then calltag gateway, calltag worker and calltag notifier; calltag doctor says "
    "what is wrong, calltag config what can be set.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
topology = typer.Typer(
    help="Exchanges and queues on RabbitMQ. For example: calltag topology apply", no_args_is_help=True
)
app.add_typer(topology, name="topology")
sessions_app = typer.Typer(
    help="CometD sessions: look at them, end them. For example: calltag sessions ls", no_args_is_help=True
)
app.add_typer(sessions_app, name="sessions")
app.add_typer(parked_app, name="parked")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def _of_all_commands(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


Port = Annotated[int | None, typer.Option(help="Port to listen on (instead of the setting).", min=0, max=65535)]
ReadyJson = Annotated[
    bool,
    typer.Option(
        "--ready-json", help="Print one line of JSON when it is ready: url, port, internal_port, pid and more."
    ),
]
Demo = Annotated[bool, typer.Option("--demo", help="Use the demo contact centre; every password is `demo`.")]
_EXIT_INTERRUPTED = 130
_EXIT_TERMINATED = 143
_EXIT_UNOWNED = 3


def main() -> None:
    """Run the command; what can go wrong for a user ends with one clear line and exit code 1."""
    collect_less_often()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)
    except Exception as error:
        from calltag.cli.expected import expected_error

        expected = expected_error(error)
        if expected is None:
            raise
        sys.stderr.write(f"calltag: {expected}\n")
        sys.exit(1)


@app.command()
def gateway(port: Port = None, demo: Demo = False, ready_json: ReadyJson = False) -> None:
    """Serve the HTTP API: takes operations and puts them on RabbitMQ.

    Needs CALLTAG_AMQP__URL, CALLTAG_REDIS__URL and a directory of users (CALLTAG_DIRECTORY__FILE); CALLTAG_PUBLIC_URL
    is the address that clients use. Run any number. For example:

        calltag gateway --port 8080
    """
    from calltag.cli.serving import serve_gateway

    serve_gateway(port, demo=demo, ready_json=ready_json)


@app.command()
def worker(ready_json: ReadyJson = False) -> None:
    """Apply operations to calls, and send the events.

    Needs CALLTAG_AMQP__URL and CALLTAG_REDIS__URL. Run any number: workers share the partitions among them; those of
    one that dies are taken over after CALLTAG_WORKER__LEASE_S. For example:

        calltag worker
    """
    from calltag.cli.serving import serve_worker

    serve_worker(ready_json=ready_json)


@app.command()
def notifier(port: Port = None, demo: Demo = False, ready_json: ReadyJson = False) -> None:
    """Serve CometD: tells subscribers what happens to their calls.

    Needs CALLTAG_AMQP__URL, CALLTAG_REDIS__URL and a directory of users (CALLTAG_DIRECTORY__FILE). Run any number: each
    serves every client. For example:

        calltag notifier --port 8081
    """
    from calltag.cli.serving import serve_notifier

    serve_notifier(port, demo=demo, ready_json=ready_json)


@app.command()
def serve(
    port: Port = None,
    demo: Demo = False,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Bus and store inside this process: no RabbitMQ, no Redis.")
    ] = False,
    ready_json: ReadyJson = False,
) -> None:
    """Gateway, worker and notifier in one process.

    With --embedded nothing else is needed; data is kept between runs in CALLTAG_EMBEDDED__FOLDER. For example:

        calltag serve --embedded --demo --port 8080
    """
    from calltag.cli.serving import serve_all

    serve_all(port, demo=demo, embedded=embedded, ready_json=ready_json)


@topology.command("apply")
def topology_apply() -> None:
    """Declare the exchanges and queues that calltag uses. Harmless when they are there already.

    Needs CALLTAG_AMQP__URL. Their names begin with CALLTAG_AMQP__PREFIX; there are CALLTAG_PARTITIONS queues for
    operations. For example:

        calltag topology apply
    """
    from calltag.cli.configuration import command_settings
    from calltag.core.backends import amqp_settings
    from calltag.core.bus.amqp import apply_topology

    settings = command_settings("topology")
    asyncio.run(apply_topology(amqp_settings(settings)))
    typer.echo(f"{settings.partitions} partition queues and their exchanges are there.")


OfUser = Annotated[str | None, typer.Option("--user", help="Only the sessions of this user.")]
Handle = Annotated[str, typer.Argument(help="The session, as `calltag sessions ls` names it.")]


@sessions_app.command("ls")
def sessions_ls(
    user: OfUser = None, *, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """List the CometD sessions of the installation: whose, held by which notifier, subscribed to what.

    Needs CALLTAG_REDIS__URL. A session is named by a digest of its id, as the id may be all that its client has to
    show. For example:

        calltag sessions ls --user alice
    """
    from calltag.cli.configuration import command_settings
    from calltag.cli.output import print_json, print_table
    from calltag.cli.sessions import public, sessions, table_of

    async def listed() -> "list[ListedSession]":
        async with sessions(command_settings("sessions")) as found:
            return [each async for each in found.all(user)]

    rows = asyncio.run(listed())
    if as_json:
        print_json(map(public, rows))
    elif rows:
        print_table(table_of(rows))
    else:
        typer.echo("there are no sessions")


@sessions_app.command("show")
def sessions_show(session: Handle) -> None:
    """Show one CometD session.

    Needs CALLTAG_REDIS__URL. Fails if there is no such session. For example:

        calltag sessions show 0123456789ab
    """
    from calltag.cli.configuration import command_settings
    from calltag.cli.sessions import lines_of, sessions

    async def wanted() -> "ListedSession":
        async with sessions(command_settings("sessions")) as found:
            return await found.one(session)

    for line in lines_of(asyncio.run(wanted())):
        typer.echo(line)


@sessions_app.command("close")
def sessions_close(
    session: Annotated[str | None, typer.Argument(help="The session, as `calltag sessions ls` names it.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="All sessions of this user, instead of one.")] = None,
) -> None:
    """End a CometD session, or all of a user: their clients are told, and have to shake hands again.

    Needs CALLTAG_REDIS__URL and CALLTAG_AMQP__URL. For example:

        calltag sessions close --user alice
    """
    if (session is None) == (user is None):
        raise typer.BadParameter("name a session or a user (--user), one of them")
    from calltag.cli.configuration import command_settings
    from calltag.cli.sessions import close_sessions

    settings = command_settings("sessions")
    closed = asyncio.run(close_sessions(settings, session, user))
    for each in closed:
        typer.echo(f"closed {each.handle} of {each.user}")
    if not closed:
        typer.echo(f"{user} has no sessions")


@app.command()
def partitions(*, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the partitions: who works on each, in which epoch, how much waits there, and for how long.

    Exit code 0 if each has an owner, 3 if one has none or has no queue, 1 if that could not be found out. Needs
    CALLTAG_REDIS__URL and CALLTAG_AMQP__URL, and changes nothing.

    - owner: the worker with a lease that consumes the partition, as it told when it last renewed the lease, a second
      ago at most. Two are shown while it moves from one to the other (`moving`).
    - epoch: the number of the take-over that is valid; commits of owners before it are refused. It rises, by a random
      step, with the first operation that a new owner gets.
    - depth: at least so many operations are not done yet: the messages in the queue, as RabbitMQ tells, under load of
      up to 64 operations each, and the operations in hand, as the owner tells.
    - oldest: how long the oldest operation in hand has waited since its acceptance; the owner tells, as only it knows.

    Of a partition without an owner, `?` stands for what only an owner could tell, and depth is what the queue holds.

    For example:

        calltag partitions
    """
    from calltag.cli.configuration import command_settings
    from calltag.cli.output import print_json, print_table
    from calltag.cli.partitions import listed_partitions, public, table_of

    rows = asyncio.run(listed_partitions(command_settings("partitions")))
    if as_json:
        print_json(map(public, rows))
    else:
        print_table(table_of(rows))
    sys.exit(0 if all(each.good for each in rows) else _EXIT_UNOWNED)


@app.command()
def doctor() -> None:
    """Tell what is reachable, which versions, and what is wrong; exit code 1 if something is.

    Looks at RabbitMQ (CALLTAG_AMQP__URL), at Redis (CALLTAG_REDIS__URL) and at the directory of users
    (CALLTAG_DIRECTORY__FILE), and leaves nothing there.

    - ok: as it should be, or of no concern.
    - warn: it works, but not as an installation should (exit code 0).
    - WRONG: calltag does not work like this (exit code 1).

    For example:

        calltag doctor
    """
    from calltag.cli.configuration import command_settings
    from calltag.cli.doctor import examine
    from calltag.cli.finding import Grade

    settings = command_settings("doctor", warns=False)
    findings = asyncio.run(examine(settings))
    for finding in findings:
        typer.echo(finding.line)
    sys.exit(1 if any(finding.grade is Grade.WRONG for finding in findings) else 0)


@app.command()
def config() -> None:
    """Show every setting with its value, its variable and what it does; passwords are left out.

    Settings are variables, or files of their names in the folder CALLTAG_SECRETS_DIR. Fails if one is wrong.
    For example:

        calltag config
    """
    from rich.table import Table

    from calltag.cli.configuration import command_settings
    from calltag.cli.output import print_table
    from calltag.core.settings import settings_table

    table = Table("variable", "value", "what it does", box=None)
    for row in settings_table(command_settings("config")):
        table.add_row(row.variable, row.value, row.description)
    print_table(table)


@app.command()
def demo(
    url: Annotated[str, typer.Option(help="Where calltag runs.")] = "http://127.0.0.1:8080",
    own_if_absent: Annotated[
        bool, typer.Option("--own-if-absent", help="Start an own instance if none runs there.")
    ] = False,
) -> None:
    """The tour: sign in, dial, subscribe, attach data, see the message; all that goes to and fro is printed.

    Needs a calltag with the demo contact centre (CALLTAG_DIRECTORY__DEMO), or starts one for itself. For example:

        calltag demo --url http://127.0.0.1:8080 --own-if-absent
    """
    from rich.console import Console

    from calltag.cli.tour import Tour

    tour = Tour(url.rstrip("/"), Console(highlight=False, soft_wrap=True))
    try:
        sys.exit(asyncio.run(tour.run(own_if_absent=own_if_absent)))
    except asyncio.CancelledError:
        sys.exit(_EXIT_TERMINATED)


@app.command()
def docs(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if a document is out of date.")] = False,
    root: Annotated[Path, typer.Option(help="The project's folder.")] = Path(),
) -> None:
    """Write the generated documents: settings table, OpenAPI, AsyncAPI. For those who change calltag. For example:

    calltag docs --check
    """
    from calltag.cli.documents import write_documents

    stale = write_documents(root, check=check)
    for path in stale:
        typer.echo(f"{path} is out of date; run: calltag docs" if check else f"wrote {path}", err=check)
    sys.exit(1 if check and stale else 0)


@app.command()
def version() -> None:
    """Print the version. For example:

    calltag version
    """
    typer.echo(VERSION)
