"""The locks: what pyproject.toml asks for, resolved, with hashes and without any registry's address.

`python deploy/locks.py` writes them; `--check` tells whether they still fit.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {
    "requirements.lock": ["pyproject.toml"],
    "requirements-run.lock": ["pyproject.toml", "--extra", "embedded"],
    "requirements-dev.lock": ["pyproject.toml", "--extra", "dev"],
    "requirements-build.lock": ["deploy/build.in"],
}
OPTIONS = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]


def compile_lock(name: str, sources: list[str], output: Path) -> None:
    """Resolve into `output`, staying with the versions that are there already."""
    if not output.exists() and (ROOT / name).exists():
        output.write_bytes((ROOT / name).read_bytes())
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", *sources, *OPTIONS, "-o", str(output)]
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


def main() -> int:
    """Write the locks, or with --check compare them."""
    if "--check" not in sys.argv[1:]:
        for name, sources in LOCKS.items():
            compile_lock(name, sources, ROOT / name)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        wrong = stale(Path(folder))
    for name in wrong:
        sys.stderr.write(f"{name} does not fit pyproject.toml; run: make lock\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
