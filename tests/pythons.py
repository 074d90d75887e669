"""Run the unit tests on several versions of Python, each in an environment of its own: `python tests/pythons.py 3.12`.

`all` stands for those of the classifiers in pyproject.toml. Interpreters come from PATH and from pyenv. The last line
names each version with its outcome. A version without an interpreter fails the run; with CI=true it is only named.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / ".venvs"
UV: Final = str(Path(sys.executable).with_name("uv"))
LOCK: Final = "requirements-dev.lock"
UNIT_TESTS: Final = ("-m", "pytest", "-q", "--numprocesses", "auto", "--dist", "loadfile", "tests/unit")
_SHOW_VERSION: Final = "import sys; print('%d.%d' % sys.version_info[:2], sys.implementation.name)"
_INHERITED: Final = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class Outcome(StrEnum):
    """How the unit tests of a version ended."""

    PASSED = "passed"
    FAILED = "FAILED"
    MISSING = "no interpreter"


def supported() -> Sequence[str]:
    """The versions that the classifiers name."""
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    return [found[1] for each in classifiers if (found := re.search(r":: Python :: (3\.\d+)$", each))]


def candidates(version: str) -> Iterator[Path]:
    """Programs that may be an interpreter of the version."""
    yield Path(sys.executable)
    if (on_path := shutil.which(f"python{version}")) is not None:
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}*/bin/python{version}"), reverse=True)


def interpreter(version: str) -> Path | None:
    """A CPython of the version that starts; None if there is none."""
    for each in candidates(version):
        done = subprocess.run([each, "-c", _SHOW_VERSION], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.split() == [version, "cpython"]:
            return each
    return None


def environment(version: str, python: Path) -> Path:
    """The interpreter of an environment with the lock and calltag in it."""
    folder = FOLDER / version
    own = folder / "bin" / "python"
    made_for = folder / ".lock"
    wanted = (ROOT / LOCK).read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    if not own.exists() or not made_for.exists() or made_for.read_bytes() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        uv("venv", "--python", str(python), str(folder))
        uv("pip", "sync", "--python", str(own), "--require-hashes", LOCK)
        uv("pip", "install", "--python", str(own), "--no-deps", "--no-build-isolation", "--editable", ".")
        made_for.write_bytes(wanted)
    return own


def uv(*arguments: str) -> None:
    subprocess.run([UV, "--quiet", *arguments], cwd=ROOT, env=clean(), check=True)


def clean() -> dict[str, str]:
    """The environment without what would mix two versions."""
    return {name: value for name, value in os.environ.items() if name not in _INHERITED}


def run(version: str, arguments: Sequence[str]) -> Outcome:
    """Run the unit tests of one version."""
    python = interpreter(version)
    if python is None:
        return Outcome.MISSING
    print(f"\nUnit tests on Python {version} ({python}):", flush=True)
    command = [str(environment(version, python)), *UNIT_TESTS, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=clean(), check=False)
    return Outcome.FAILED if done.returncode else Outcome.PASSED


def verdict(outcomes: Mapping[str, Outcome], *, may_miss: bool) -> int:
    """Print the outcomes; return the exit code. A run of no version is a failure, whatever may be missing."""
    print(f"\nUnit tests by version of Python: {', '.join(f'{name}: {each}' for name, each in outcomes.items())}")
    bad = {Outcome.FAILED} if may_miss else {Outcome.FAILED, Outcome.MISSING}
    return int(bool(bad.intersection(outcomes.values())) or Outcome.PASSED not in outcomes.values())


def main() -> int:
    """Run the versions; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="+", help="such as 3.12, or all")
    parser.add_argument("--arguments", default="", help="further arguments of pytest")
    chosen = parser.parse_args()
    versions = supported() if chosen.versions == ["all"] else chosen.versions
    outcomes = {each: run(each, chosen.arguments.split()) for each in versions}
    return verdict(outcomes, may_miss=os.environ.get("CI") == "true")


if __name__ == "__main__":
    sys.exit(main())
