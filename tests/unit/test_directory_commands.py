"""The commands for the file of users and devices."""

import json
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from typer.testing import CliRunner, Result

from calltag.cli.main import app
from calltag.core.identity.directory import (
    DirectoryError,
    Role,
    _AgentStateEntry,
    _UserEntry,
    parse_directory,
)

DEMO = {"CALLTAG_DIRECTORY__DEMO": "true"}


def run(*arguments: str, stdin: str = "", **environment: str) -> Result:
    return CliRunner().invoke(app, ["directory", *arguments], input=stdin, env={"COLUMNS": "200", **environment})


def test_a_hash_is_that_of_the_password_and_new_each_time() -> None:
    one, two = (run("hash", stdin="päss word\n").stdout.strip() for _ in range(2))
    assert one != two
    assert PasswordHasher().verify(one, "päss word")


@pytest.mark.parametrize("password", ["", "x" * 1_025])
def test_a_password_that_could_never_log_in_has_no_hash(password: str) -> None:
    refused = run("hash", stdin=f"{password}\n")
    assert isinstance(refused.exception, DirectoryError)
    assert "1 to 1024" in str(refused.exception)


def test_what_is_in_a_file_and_what_is_probably_wrong(tmp_path: Path) -> None:
    file = tmp_path / "centre.toml"
    good, weak = run("hash", stdin="a\n").stdout.strip(), PasswordHasher(memory_cost=8, parallelism=1).hash("b")
    file.write_text(f"""
        [[users]]
        id = "ann"
        password_hash = "{good}"
        [[users]]
        id = "ben"
        password_hash = "{good}"
        features = ["api-voice", "api-supervisor-monitoring"]
        devices = [{{ id = "d", number = "1" }}]
        [[users]]
        id = "cem"
        password_hash = "{weak}"
        features = ["api-voice"]
        devices = [{{ id = "e", number = "2" }}]
    """)
    checked = run("check", str(file))
    assert checked.exit_code == 0
    assert checked.stdout.splitlines() == [
        "ok     3 users (3 with the role agent), 2 devices",
        "warn   without the feature api-voice: ann",
        "warn   agents without a device: ann",
        "warn   api-supervisor-monitoring, and no agent to monitor: ben",
        "warn   the same hash as another user: ann, ben",
        "warn   a hash of less memory than is recommended: cem",
        "warn   no user has the role switch: the telephony switch cannot report calls",
    ]
    assert run("check", CALLTAG_DIRECTORY__FILE=str(file)).stdout == checked.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["/no/such.toml"], "/no/such.toml"), ([], "CALLTAG_DIRECTORY__FILE"), (["pyproject.toml"], "users")],
)
def test_a_file_that_is_none_is_an_error(arguments: list[str], words: str) -> None:
    for command in ("check", "show"):
        refused = run(command, *arguments)
        assert isinstance(refused.exception, DirectoryError)
        assert words in str(refused.exception)


def test_users_are_listed_without_their_hashes() -> None:
    rows: list[dict[str, Any]] = [json.loads(line) for line in run("show", "--json", **DEMO).stdout.splitlines()]
    assert rows[0] == {
        "id": "alice", "name": "Alice Agent", "roles": ["agent"], "features": ["api-voice"], "numbers": ["15000"],
        "supervisors": ["carol"],
    }  # fmt: skip
    table = run("show", **DEMO).stdout
    assert all(row["id"] in table for row in rows)
    assert "$argon2" not in table + json.dumps(rows)


def test_a_file_for_load_tests() -> None:
    text = run("generate", "45", "--team", "20", "--first-number", "100", stdin="secret\n").stdout
    centre = parse_directory(text, "generated")
    agents = [user for user in centre.users.values() if user.roles == {Role.AGENT}]
    assert (len(agents), len(centre.by_supervisor), len(centre.users)) == (45, 3, 49)
    assert sorted(int(number) for number in centre.by_number) == list(range(100, 148))
    assert max(len(team) for team in centre.by_supervisor.values()) == 20
    assert all(centre.is_monitor(supervisor) for supervisor in centre.by_supervisor)
    assert PasswordHasher().verify(agents[7].password_hash, "secret")


def test_nobody_has_no_file() -> None:
    assert run("generate", "0", stdin="x\n").exit_code == 2


def test_the_documented_file_is_valid_and_each_field_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "directory.md").read_text(encoding="utf-8")
    text = page.partition("```toml\n")[2].partition("```")[0]
    carol = text.partition("[[users]]")[2].replace("alice", "carol").partition("supervisors")[0]
    centre = parse_directory(f"{text}\n[[users]]{carol.replace('agent', 'supervisor')}", "docs/directory.md")
    assert set(centre.users) == {"alice", "carol"}
    assert "Lunch" in centre.agent_states
    for entry in (_UserEntry, _AgentStateEntry):
        for name in entry.model_fields:
            assert f"`{name}`" in page, name
