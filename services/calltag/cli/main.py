"""The command `calltag`. Each command imports its modules when it runs, since most need a small part."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calltag.cli.calls_commands import calls_app
from calltag.cli.directory_commands import directory_app
from calltag.cli.parked_commands import parked_app
from calltag.core import VERSION
from calltag.core.process.os_limits import collect_less_often

if TYPE_CHECKING:
    from calltag.cli.sessions import ListedSession

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
app.add_typer(directory_app, name="directory")
app.add_typer(calls_app, name="calls")


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
    """Run the command; an expected error ends it with one line on standard error and exit code 1."""
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
    """Serve the HTTP API: validate operations and publish them to RabbitMQ.

    Needs CALLTAG_AMQP__URL, CALLTAG_REDIS__URL and a directory of users (CALLTAG_DIRECTORY__FILE); CALLTAG_PUBLIC_URL
    is the address that clients use. Any number of gateways may run. For example:

        calltag gateway --port 8080
    """
    from calltag.cli.serving import serve_gateway

    serve_gateway(port, demo=demo, ready_json=ready_json)


@app.command()
def worker(ready_json: ReadyJson = False) -> None:
    """Apply operations to calls, and publish the events.

    Needs CALLTAG_AMQP__URL and CALLTAG_REDIS__URL. Any number of workers may run: they share the partitions, and take
    over those of a crashed worker after CALLTAG_WORKER__LEASE_S seconds. For example:

        calltag worker
    """
    from calltag.cli.serving import serve_worker

    serve_worker(ready_json=ready_json)


@app.command()
def notifier(port: Port = None, demo: Demo = False, ready_json: ReadyJson = False) -> None:
    """Serve CometD: deliver the events of calls to subscribers.

    Needs CALLTAG_AMQP__URL, CALLTAG_REDIS__URL and a directory of users (CALLTAG_DIRECTORY__FILE). Any number of
    notifiers may run, and each serves every client. For example:

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
    """Run gateway, worker and notifier in one process.

    With --embedded it needs no RabbitMQ or Redis, but the packages of the extra: pip install 'calltag[embedded]'. Data
    is kept in CALLTAG_EMBEDDED__FOLDER between runs. For example:

        calltag serve --embedded --demo --port 8080
    """
    from calltag.cli.serving import serve_all

    serve_all(port, demo=demo, embedded=embedded, ready_json=ready_json)


@topology.command("apply")
def topology_apply() -> None:
    """Declare the exchanges and queues that calltag uses. Safe to repeat.

    Needs CALLTAG_AMQP__URL. Their names begin with CALLTAG_AMQP__PREFIX; there are CALLTAG_PARTITIONS queues for
    operations. For example:

        calltag topology apply
    """
    from calltag.cli.configuration import command_settings
    from calltag.core.backends import amqp_settings
    from calltag.core.broker.rabbitmq import apply_topology

    settings = command_settings("topology")
    asyncio.run(apply_topology(amqp_settings(settings)))
    typer.echo(f"{settings.partitions} partition queues and their exchanges exist.")


OfUser = Annotated[str | None, typer.Option("--user", help="Only the sessions of this user.")]
Handle = Annotated[str, typer.Argument(help="The session, as `calltag sessions ls` names it.")]


@sessions_app.command("ls")
def sessions_ls(
    user: OfUser = None, *, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """List the CometD sessions of the installation, with user, notifier and subscriptions.

    Needs CALLTAG_REDIS__URL. A session is named by a digest of its id, since the id may be the only credential of its
    client. For example:

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

    Needs CALLTAG_REDIS__URL. Fails if the session does not exist. For example:

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
    """End a CometD session, or all sessions of a user. Their clients are notified, and have to handshake again.

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
    """List the partitions: owner, epoch, waiting operations, and the age of the oldest one.

    Exit code 0 if each has an owner, 3 if one has no owner or no queue, 1 if the state cannot be read. Needs
    CALLTAG_REDIS__URL and CALLTAG_AMQP__URL, and changes nothing.

    - owner: the worker that has a lease and consumes the partition, as reported with its last lease renewal, at most a
      second ago. Two are shown while the partition moves from one to the other (`moving`).
    - epoch: the number of the last take-over; commits of earlier owners are refused. It rises, by a random step, with
      the first operation that a new owner receives.
    - depth: minimum number of operations that are not done: the messages in the queue, as RabbitMQ counts them (under
      load with up to 64 operations each), and the unacknowledged operations that the owner reports (`in hand`).
    - oldest: time since the acceptance of the oldest unacknowledged operation, as the owner reports it.

    A partition without an owner shows `?` for values that only an owner reports; its depth counts only the queue.

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
def repartition(
    number: Annotated[int, typer.Argument(min=1, max=1_024, help="The new number of partitions.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Move an installation that does not run to another number of partitions.

    Stop gateways and notifiers, let workers finish (`calltag partitions` shows depth 0), stop them too, and decide on
    parked operations. Then run this, and start everything with the new CALLTAG_PARTITIONS. It refuses while something
    runs or waits, and continues after an interruption. Needs CALLTAG_AMQP__URL with the right to declare queues, and
    CALLTAG_REDIS__URL. For example:

        calltag repartition 64
    """
    from calltag.cli.configuration import command_settings
    from calltag.cli.repartition import repartition as move

    if not yes:
        typer.confirm(f"Move this installation to {number} partitions?", abort=True)
    settings = command_settings("repartition")
    moved = asyncio.run(move(settings, number, lambda line: typer.echo(line, err=True)))
    typer.echo(f"moved {moved} calls and agents; now set CALLTAG_PARTITIONS={number}")


AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command()
def doctor(*, as_json: AsJson = False) -> None:
    """Check an installation: what is reachable, which versions run, and what is wrong; exit code 1 if something is.

    Checks RabbitMQ (CALLTAG_AMQP__URL), Redis (CALLTAG_REDIS__URL), the processes that run on it and their clocks, TLS
    files and the end of their certificates, CALLTAG_PUBLIC_URL, and the directory of users (CALLTAG_DIRECTORY__FILE).
    Leaves nothing behind.

    - ok: as it should be, or not relevant.
    - warn: it works, but is not recommended for an installation (exit code 0).
    - bad: calltag does not work like this (exit code 1).

    For example:

        calltag doctor
    """
    from calltag.cli.configuration import command_settings
    from calltag.cli.doctor import examine
    from calltag.cli.output import Grade, print_json

    settings = command_settings("doctor", warns=False)
    findings = asyncio.run(examine(settings))
    if as_json:
        print_json({"level": each.grade.name.lower(), "text": each.text} for each in findings)
    else:
        for finding in findings:
            typer.echo(finding.line)
    sys.exit(1 if any(finding.grade is Grade.BAD for finding in findings) else 0)


@app.command()
def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print one table, and end.")] = False,
    every_s: Annotated[float, typer.Option("--every", min=1, max=60, help="Seconds between two looks.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Show the running processes: rates of operations and deliveries, backlog, connections, sessions, partitions.

    Processes report their values to Redis every five seconds; a rate needs two reports. Ends with Ctrl-C. Needs
    CALLTAG_REDIS__URL, and changes nothing. For example:

        calltag top --once
    """
    from calltag.cli import top as work
    from calltag.cli.configuration import command_settings
    from calltag.cli.output import print_json, show_table

    async def watch() -> None:
        async with work.top(command_settings("top")) as found:
            loads = await found.look()
            while True:
                if as_json:
                    print_json(map(work.public, loads))
                else:
                    show_table(work.table_of(loads), clear=not once)
                if once:
                    return
                await asyncio.sleep(every_s)
                loads = await found.look()

    asyncio.run(watch())


@app.command("support-bundle")
def support_bundle(
    file: Annotated[Path, typer.Option("--file", help="The archive to write.")] = Path("calltag-support.zip"),
) -> None:
    """Write an archive for those who help: settings without secrets, versions, doctor, partitions, metrics.

    It has no user data, no names of users and no ids of sessions; look through it before you send it. Parts that
    cannot be read are replaced by the reason. Run it where the internal ports of the processes can be reached, as in
    one of the pods. For example:

        calltag support-bundle --file calltag-support.zip
    """
    from calltag.cli.configuration import command_settings
    from calltag.cli.support_bundle import bundle

    asyncio.run(bundle(command_settings("support"), file, lambda part: typer.echo(f"reading {part} ...", err=True)))
    typer.echo(f"wrote {file}")


@app.command()
def config(
    show_all: Annotated[bool, typer.Option("--all", help="Show the advanced settings as well.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Show only the settings that are set.")] = False,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the everyday settings, and those that are set: variable, value, description. Passwords are left out.

    Settings are environment variables, or files of the same names in the folder CALLTAG_SECRETS_DIR. Fails if one is
    invalid.
    For example:

        calltag config --changed --json
    """
    from rich.table import Table

    from calltag.cli.configuration import command_settings
    from calltag.cli.output import print_json, print_table
    from calltag.core.settings import settings_table

    table = Table("variable", "value", "description", box=None)
    if show_all and changed:
        raise typer.BadParameter("--all and --changed exclude each other")
    rows = settings_table(command_settings("config"))
    shown = [row for row in rows if row.is_set or (not changed and (show_all or row.is_everyday))]
    if as_json:
        print_json({"variable": row.variable, "value": row.value, "is_set": row.is_set} for row in shown)
        return
    for row in shown:
        table.add_row(row.variable, row.value, row.description)
    print_table(table)
    if len(shown) < len(rows) and not changed:
        typer.echo(f"{len(rows) - len(shown)} more have their defaults: calltag config --all", err=True)


@app.command()
def demo(
    url: Annotated[str, typer.Option(help="Where calltag runs.")] = "http://127.0.0.1:8080",
    own_if_absent: Annotated[
        bool, typer.Option("--own-if-absent", help="Start an own instance if none runs there.")
    ] = False,
) -> None:
    """Run the tour: sign in, subscribe, dial, attach data, receive the event; prints all requests and responses.

    Needs a running calltag with the demo contact centre (CALLTAG_DIRECTORY__DEMO), or starts its own. For example:

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
    """Write the generated documents: settings table, OpenAPI, AsyncAPI. For developers of calltag. For example:

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
