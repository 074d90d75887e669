"""Unit tests on several versions of Python: none is left out without being named."""

import sys
import tomllib
from pathlib import Path

import pytest

import pythons
from pythons import Outcome, interpreter, supported, verdict

ROOT = Path(__file__).parents[3]
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_the_versions_are_those_of_the_project() -> None:
    versions = supported()
    assert OWN in versions
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={versions[0]}"


def test_an_interpreter_is_one_of_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interpreter(OWN) is not None
    assert interpreter("3.1") is None
    monkeypatch.setattr(pythons, "candidates", lambda _: iter([Path(sys.executable)]))
    assert interpreter(OWN) == Path(sys.executable)
    assert interpreter("3.99") is None


@pytest.mark.parametrize(
    ("outcomes", "strict", "lenient"),
    [
        ({"3.11": Outcome.PASSED, "3.12": Outcome.PASSED}, 0, 0),
        ({"3.11": Outcome.PASSED, "3.12": Outcome.FAILED}, 1, 1),
        ({"3.11": Outcome.PASSED, "3.12": Outcome.MISSING}, 1, 0),
        ({"3.12": Outcome.MISSING}, 1, 1),
        ({}, 1, 1),
    ],
)
def test_a_missing_interpreter_is_named(
    outcomes: dict[str, Outcome], strict: int, lenient: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verdict(outcomes, may_miss=False) == strict
    assert verdict(outcomes, may_miss=True) == lenient
    last = capsys.readouterr().out.splitlines()[-1]
    assert all(f"{version}: {outcome}" in last for version, outcome in outcomes.items())


def test_a_version_without_an_interpreter_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pythons, "interpreter", lambda _: None)
    assert pythons.run("3.12", []) is Outcome.MISSING
