"""The hooks of Git: each runs a tool that the development environment has, and the locks can be checked offline."""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
CONFIG: Final = ROOT / ".pre-commit-config.yaml"
REPOSITORIES: Final[Sequence[Mapping[str, Any]]] = yaml.safe_load(CONFIG.read_text())["repos"]
HOOKS: Final[Sequence[Mapping[str, Any]]] = [hook for each in REPOSITORIES for hook in each["hooks"]]
TOOLS: Final = Path(sys.executable).parent


def test_no_hook_comes_from_a_network() -> None:
    assert {each["repo"] for each in REPOSITORIES} == {"local"}
    assert {each["language"] for each in HOOKS} == {"system"}
    check = [str(TOOLS / "pre-commit"), "validate-config", str(CONFIG)]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_what_a_hook_runs_is_there(hook: Mapping[str, Any]) -> None:
    tool, *arguments = shlex.split(hook["entry"])
    assert tool.startswith(".venv/bin/")
    assert (TOOLS / Path(tool).name).exists()
    for each in arguments:
        assert not each.endswith(".py") or (ROOT / each).exists()


def test_each_hook_is_a_part_of_the_check() -> None:
    """What passes `make check` passes the hooks."""
    recipe = re.findall(r"^check:.*?\n\n", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)[0]
    for hook in HOOKS:
        tool, *arguments = shlex.split(hook["entry"])
        words = [Path(tool).name, *(each for each in arguments if not each.startswith("--"))]
        assert re.search(r"[^\n]*".join(map(re.escape, words)), recipe), hook["entry"]


@pytest.fixture
def locks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("locks", ROOT / "deploy" / "locks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_locks_fit_what_is_asked_for(locks: ModuleType) -> None:
    assert locks.unfit() == []


@pytest.mark.parametrize(
    ("dependency", "lock", "unfit"),
    [
        ('"a>=2"', "a==1.0 \\\n", True),
        ('"a>=2"', "a==2.0 \\\n", False),
        ('"a>=2"', "b==2.0 \\\n", True),
        ("\"A_b[c]>=2; sys_platform == 'linux'\"", "a-b==2.1 ; sys_platform == 'linux' \\\n", False),
        ('"a>=2"', "--index-url https://example.com\na==2.0 \\\n", True),
    ],
)
def test_a_lock_that_does_not_fit_is_found_without_a_network(
    locks: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dependency: str, lock: str, *, unfit: bool
) -> None:
    project = f'[project]\nname = "p"\ndependencies = [{dependency}]\n[project.optional-dependencies]\n'
    (tmp_path / "pyproject.toml").write_text(project)
    (tmp_path / "one.lock").write_text(lock)
    monkeypatch.setattr(locks, "ROOT", tmp_path)
    monkeypatch.setattr(locks, "LOCKS", {"one.lock": ["pyproject.toml"]})
    assert locks.unfit() == (["one.lock"] if unfit else [])
