"""Unit tests run with Python alone: nothing is installed for them, as root or by npm."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = re.compile(
    r"parts\.(rabbitmq|redis_(?!asking)\w+|haproxy|chromium|system)|"
    r"def .*\b(rabbitmq|rabbitmq_cluster|redis_(url|server|cluster|sentinel))\b"
)
NPM = "npm ci"
APT = "tests/parts/install.sh"


def planned(arguments: str) -> str:
    """What make would do."""
    make = shutil.which("make")
    assert make is not None
    command = [make, "--dry-run", "--always-make", "test", f"ARGS={arguments}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arguments", ["tests/unit", "tests/unit/broker -x", "-x tests/unit/test_documents.py::test_a"])
def test_unit_tests_have_nothing_installed_but_what_is_of_python(arguments: str) -> None:
    plan = planned(arguments)
    assert NPM not in plan
    assert APT not in plan
    assert f"pytest {arguments}" in plan


@pytest.mark.parametrize("versions", ["", "3.12 3.13"])
def test_make_unit_has_nothing_installed_but_what_is_of_python(versions: str) -> None:
    make = shutil.which("make")
    assert make is not None
    command = [make, "--dry-run", "--always-make", "unit", f"PYTHONS={versions}"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert NPM not in plan
    assert APT not in plan
    assert ("tests/pythons.py 3.12 3.13" if versions else "--numprocesses auto --dist loadfile tests/unit") in plan


@pytest.mark.parametrize("arguments", ["tests/contract", "tests/integration -x"])
def test_tests_of_parts_have_those_installed_and_no_clients(arguments: str) -> None:
    plan = planned(arguments)
    assert NPM not in plan
    assert APT in plan


@pytest.mark.parametrize("arguments", ["", "-k drain", "tests", "tests/e2e", "tests/unit tests/e2e/test_tour.py"])
def test_all_others_have_everything_installed(arguments: str) -> None:
    plan = planned(arguments)
    assert NPM in plan
    assert APT in plan


@pytest.mark.parametrize("file", sorted((ROOT / "tests" / "unit").rglob("*.py")), ids=lambda file: file.name)
def test_no_unit_test_uses_what_is_installed_beside_python(file: Path) -> None:
    if file == Path(__file__):
        return
    text = file.read_text()
    assert "node_modules" not in text
    assert not PARTS.search(text)


def test_no_check_hides_the_failure_of_another() -> None:
    """A pipeline ends as its last command does."""
    make = shutil.which("make")
    assert make is not None
    command = [make, "--dry-run", "check"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "lint-imports" in plan
    assert not re.search(r"(?<!\|)\|(?!\|)", plan)
