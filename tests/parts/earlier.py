"""An earlier version of calltag, from the history of this repository: the newest release, or the commit named here."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
COMMIT: Final = "431c726ba8bfe77b3ac860d3b0a1a1ca20ea4748"
"""The version to upgrade from while there is no release (a tag `v...`)."""


class NoHistory(RuntimeError):
    """The repository lacks the earlier version; the message says how to get it."""


def earlier_version(folder: Path) -> Path:
    """Unpack the earlier version into the folder, and return it. Raises NoHistory."""
    if _git("rev-parse", "--is-shallow-repository").strip() == b"true":
        _git("fetch", "--quiet", "--unshallow", "--tags")
    wanted = _git("describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^").decode().strip() or COMMIT
    archive = _git("archive", "--format=tar", wanted, "services", "shared")
    if not archive:
        raise NoHistory(f"{wanted} is not in this repository: clone it with its history (git fetch --unshallow --tags)")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def _git(*arguments: str) -> bytes:
    """Return what git prints; nothing if it fails."""
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False).stdout
