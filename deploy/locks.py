"""The locks: what pyproject.toml asks for, resolved, with hashes and without any registry's address.

`python deploy/locks.py` writes them; `--check` tells whether they still fit, and whether each package of the image has
wheels for the image's platforms. `--check --offline` resolves nothing: it compares what is asked for by name with the
versions in the locks.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {
    "requirements.lock": ["pyproject.toml"],
    "requirements-run.lock": ["pyproject.toml", "--extra", "embedded"],
    "requirements-dev.lock": ["pyproject.toml", "--extra", "dev"],
    "requirements-build.lock": ["deploy/build.in"],
}
OPTIONS = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]

IMAGE_LOCK = "requirements-run.lock"
IMAGE_PYTHON = "3.12"
PLATFORMS = ("x86_64-manylinux_2_36", "aarch64-manylinux_2_36")
"""Those of the image, in the words of uv: Debian 12 on amd64 and arm64."""


def compile_lock(name: str, sources: list[str], output: Path) -> None:
    """Resolve into `output`, staying with the versions that are there already."""
    if not output.exists() and (ROOT / name).exists():
        output.write_bytes((ROOT / name).read_bytes())
    command = [_uv(), "pip", "compile", *sources, *OPTIONS, "-o", str(output)]
    subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - our own arguments


def stale(folder: Path) -> list[str]:
    """The locks that would come out different, or that name an address."""
    wrong = []
    for name, sources in LOCKS.items():
        fresh = folder / name
        compile_lock(name, sources, fresh)
        text = (ROOT / name).read_text()
        if fresh.read_text() != text or "://" in text:
            wrong.append(name)
    return wrong


def unbuilt(folder: Path) -> list[str]:
    """The platforms of the image for which a package of its lock has no wheel."""
    options = ["--dry-run", "--quiet", "--only-binary", ":all:", "--require-hashes", "--target", str(folder)]
    command = [_uv(), "pip", "install", *options, "--python-version", IMAGE_PYTHON, "-r", IMAGE_LOCK]
    return [
        each
        for each in PLATFORMS
        if subprocess.run([*command, "--python-platform", each], cwd=ROOT, check=False).returncode  # noqa: S603 - ours
    ]


def _uv() -> str:
    return str(Path(sys.executable).with_name("uv"))


def unfit() -> list[str]:
    """The locks that lack a version that fits what is asked for, or that name an address; needs no network."""
    wrong = []
    for name, sources in LOCKS.items():
        text = (ROOT / name).read_text()
        pinned: dict[str, set[str]] = {}
        for package, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
            pinned.setdefault(package, set()).add(version)
        fits = all(any(map(each.specifier.contains, pinned.get(_key(each), ()))) for each in asked_for(sources))
        if not fits or "://" in text:
            wrong.append(name)
    return wrong


def asked_for(sources: Sequence[str]) -> Iterator[Requirement]:
    """The requirements of the project with these extras, or the lines of a file."""
    if sources[0] != "pyproject.toml":
        yield from map(Requirement, (ROOT / sources[0]).read_text().split())
        return
    project = tomllib.loads((ROOT / sources[0]).read_text())["project"]
    extras = project["optional-dependencies"]
    open_lines = [*project["dependencies"], *(line for each in sources if each in extras for line in extras[each])]
    while open_lines:
        wanted = Requirement(open_lines.pop())
        if _key(wanted) == project["name"]:
            open_lines += [line for each in wanted.extras for line in extras[each]]
        else:
            yield wanted


def _key(wanted: Requirement) -> str:
    return canonicalize_name(wanted.name)


def main() -> int:
    """Write the locks, or with --check compare them."""
    if "--check" not in sys.argv[1:]:
        for name, sources in LOCKS.items():
            compile_lock(name, sources, ROOT / name)
        return 0
    platforms: list[str] = []
    if "--offline" in sys.argv[1:]:
        wrong = unfit()
    else:
        with tempfile.TemporaryDirectory() as folder:
            wrong = stale(Path(folder))
            platforms = unbuilt(Path(folder) / "image")
    for name in wrong:
        sys.stderr.write(f"{name} does not fit pyproject.toml; run: make lock\n")
    for platform in platforms:
        sys.stderr.write(f"{IMAGE_LOCK} has a package without wheels for {platform}, which the image needs\n")
    return 1 if wrong or platforms else 0


if __name__ == "__main__":
    sys.exit(main())
