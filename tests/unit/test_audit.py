"""The audit of the locks fails for what is found, and for nothing else."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "deploy" / "audit.py"
GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "skipped", "skip_reason": "Dependency not found on PyPI"}


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_found_fails(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "ask", lambda _: {"dependencies": [GOOD, BAD]})
    assert audit.main() == 1
    assert "requirements.lock: bad 2 has PYSEC-1; mended in 3" in capsys.readouterr().err


def test_nobody_to_ask_is_told_and_does_not_fail(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"requirements.lock": None, "requirements-dev.lock": {"dependencies": [GOOD, SKIPPED]}}
    monkeypatch.setattr(audit, "ask", lambda lock: answers.get(lock, {"dependencies": [GOOD]}))
    of_some = "1 of 2 packages of requirements-dev.lock were NOT audited: the service does not know them (skipped)"
    assert audit.main() == 0
    assert capsys.readouterr().err.splitlines() == [
        "audit: WARNING: requirements.lock was NOT audited: the service of vulnerabilities cannot be reached",
        f"audit: WARNING: {of_some}",
    ]
