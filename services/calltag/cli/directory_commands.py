"""The commands `calltag directory ...`: the file of users and devices."""

import sys
from pathlib import Path
from typing import Annotated

import typer

directory_app = typer.Typer(
    help="The file of users and devices: hash passwords, check the file, show it. For example: calltag directory hash",
    no_args_is_help=True,
)
File = Annotated[
    Path | None, typer.Argument(help="The file; that of CALLTAG_DIRECTORY__FILE if none is given.", show_default=False)
]


@directory_app.command("hash")
def directory_hash() -> None:
    """Print the hash of a password, for `password_hash` in the file.

    Asks for the password twice on a terminal; otherwise it is the first line of standard input. It is never an
    argument, which others could see in the list of processes. For example:

        calltag directory hash
    """
    from calltag.cli.directory_file import hash_of

    typer.echo(hash_of(_password()))


@directory_app.command("check")
def directory_check(file: File = None) -> None:
    """Check a file: what is in it, and what is probably a mistake; exit code 1 if it is invalid.

    Gateways and notifiers refuse to start with an invalid file. For example:

        calltag directory check contact-centre.toml
    """
    from calltag.cli.directory_file import findings, wanted_directory

    for finding in findings(wanted_directory(file)):
        typer.echo(finding.line)


@directory_app.command("show")
def directory_show(
    file: File = None, *, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """List the users of a file: roles, features, numbers and supervisors; without hashes of passwords.

    For example:

        calltag directory show contact-centre.toml --json
    """
    from calltag.cli.directory_file import rows, table_of, wanted_directory
    from calltag.cli.output import print_json, print_table

    users = rows(wanted_directory(file))
    if as_json:
        print_json(users)
    else:
        print_table(table_of(users))


@directory_app.command("generate")
def directory_generate(
    agents: Annotated[int, typer.Argument(help="How many agents.", min=1, max=1_000_000)],
    *,
    team: Annotated[int, typer.Option(help="Agents of each supervisor.", min=1)] = 20,
    first_number: Annotated[int, typer.Option(help="The first phone number; the others follow.", min=1)] = 20_000,
) -> None:
    """Print a file with agents and supervisors for load tests: all have the same password.

    The password is asked for as by `calltag directory hash`. There is a user `switch` for the telephony switch. For
    example:

        calltag directory generate 1000
    """
    from calltag.cli.directory_file import generated

    for line in generated(agents, team, first_number, _password()):
        typer.echo(line)


def _password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().removesuffix("\n")
