"""The wheel: all that the program needs, one version, and types that a checker finds where it is installed."""

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Final

import pytest

from calltag.core import VERSION

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UV: Final = str(Path(sys.executable).with_name("uv"))
PACKAGES: Final = {f"calltag/{name}" for name in ("cli", "core", "gateway", "notifier", "serve", "worker")}
USER: Final = """
import calltag.cli.output
import calltag.gateway.rate_limits
import calltag.notifier.event_views
import calltag.serve
import calltag.worker.expiry
from calltag.core import VERSION
from calltag.core.domain.ids import UserId
from calltag.core.settings import Settings

def look(settings: Settings) -> None:
    reveal_type(settings.drain_timeout_s)
    reveal_type(calltag.cli.output.print_json)
user: UserId = UserId("alice")
wrong: int = VERSION
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the source distribution, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [UV, "build", "--offline", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(folder)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return built


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    [name] = [each for each in files(wheel) if each.endswith(".dist-info/METADATA")]
    with zipfile.ZipFile(wheel) as archive:
        return HeaderParser().parsestr(archive.read(name).decode())


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    sources = {
        str(file.relative_to(ROOT / root))
        for root in ("services", "shared")
        for file in (ROOT / root / "calltag").rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert {each for each in files(wheel) if not each.startswith("calltag-")} == sources
    assert {f"{each}/py.typed" for each in PACKAGES} <= sources


def test_there_is_one_version(wheel: Path) -> None:
    assert metadata(wheel)["Version"] == VERSION
    assert wheel.name.startswith(f"calltag-{VERSION}-")
    assert "version" not in PROJECT
    sources = [file for root in ("services", "shared") for file in (ROOT / root).rglob("*.py")]
    assert [file.name for file in sources if f'"{VERSION}"' in file.read_text()] == ["__init__.py"]


def test_the_classifiers_name_the_versions_of_python_that_may_be_installed() -> None:
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", each)]
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in named


def test_a_package_is_a_folder_that_says_that_it_is_typed(wheel: Path) -> None:
    """`calltag` itself is a namespace of two folders, and PEP 561 wants the marker in each package below it."""
    found = {"/".join(each.split("/")[:2]) for each in files(wheel) if each.endswith("/__init__.py")}
    assert found == PACKAGES
    assert "calltag/__init__.py" not in files(wheel)


def test_a_checker_finds_the_types_of_an_installed_calltag(wheel: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "venv"
    venv.create(fresh, with_pip=False, symlinks=True)
    python = fresh / "bin" / "python"
    install = [UV, "pip", "install", "--offline", "--no-deps", "--python", str(python), str(wheel)]
    subprocess.run(install, capture_output=True, check=True, timeout=60)
    [packages] = fresh.glob("lib/python*/site-packages")
    # What calltag needs is here already. A line in a .pth file adds the folder, and not the editable calltag in it.
    (packages / "needed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\n")
    checker = [sys.executable, "-m", "mypy", "--no-incremental", "--python-executable", str(python), "user.py"]
    done = subprocess.run(checker, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    lines = [re.sub(r"^user\.py:\d+: ", "", line) for line in done.stdout.splitlines()]
    assert lines[:-1] == [
        'note: Revealed type is "float"',
        'note: Revealed type is "def (rows: typing.Iterable[object])"',
        'error: Incompatible types in assignment (expression has type "str", variable has type "int")  [assignment]',
    ], done.stdout + done.stderr
