"""The image without a container engine: built by the steps of the Dockerfile, run as its user on a read-only root."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parts.command import UNMEASURED
from parts.processes import Program

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"
_PREFIX: Final = "/opt/calltag"
_BUILD_S: Final = 300
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")
# $1 is the new root, $2 the only folder beside /tmp that may be written, $3 its owner, the rest up to -- is read-only.
_ENTER: Final = """
set -eu
root=$1 data=$2 owner=$3; shift 3
mount -t tmpfs none "$root"
mkdir -p "$root/tmp" "$root/dev" "$root/proc" "$root$data"
mount -t tmpfs -o mode=1777 none "$root/tmp"
mount -t tmpfs -o "mode=0700,uid=$owner" none "$root$data"
while [ "$1" != -- ]; do
  if [ -L "$1" ]; then cp -P "$1" "$root$1"
  else mkdir -p "$root$1"; mount --bind "$1" "$root$1"; mount -o remount,ro,bind "$root$1"; fi
  shift
done
shift
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -o remount,ro "$root"
exec chroot "$root" "$@"
"""


def instructions(stage: int) -> Iterator[tuple[str, str]]:
    """Return instructions and arguments of a stage of the Dockerfile; the first one is 0."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    for line in re.split(r"^FROM .*\n", text, flags=re.MULTILINE)[stage + 1].splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield name, arguments.strip()


def argument(name: str) -> str:
    """Return the argument of an instruction of the last stage."""
    [found] = [arguments for each, arguments in instructions(1) if each == name]
    return found


@dataclass(frozen=True, slots=True)
class Image:
    """The built image: the folder that is /opt/calltag in it."""

    prefix: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables of the image."""
        pairs = dict(each.split("=", 1) for each in shlex.split(argument("ENV")))
        return {name: value for name, value in pairs.items() if name != "PATH"}

    def command(self, folder: Path, *command: str) -> list[str]:
        """Return the command that runs another one inside: as the image's user, with only /tmp and the data folder to
        write to. `folder` is an empty one, where the root is mounted."""
        user, data = argument("USER"), argument("WORKDIR")
        read_only = [place for place in (*_SYSTEM, str(self.prefix), sys.base_prefix) if Path(place).exists()]
        # Without root it is the present user, who is the root of an own namespace.
        is_root = os.geteuid() == 0
        own = [] if is_root else ["--user", "--map-root-user"]
        drop = ["setpriv", *([f"--reuid={user}", f"--regid={user}", "--clear-groups"] if is_root else [])]
        unshared = ["unshare", *own, "--mount", "--propagation=private"]
        enter = [*unshared, "sh", "-c", _ENTER, "sh", str(folder), data, user if is_root else "0"]
        inside = ["env", "--chdir", data, *command]
        return [*enter, *dict.fromkeys(read_only), "--", *drop, "--no-new-privs", "--", *inside]

    def program(self, folder: Path, *arguments: str, **environment: str) -> Program:
        """Return a command of calltag inside, not started yet, with variables beside those of the image."""
        root = folder / "root"
        root.mkdir(parents=True)
        command = self.command(root, str(self.prefix / "bin" / "calltag"), *arguments)
        variables = {**self.environment, **UNMEASURED, **environment}
        return Program(command, folder, variables)


def build(folder: Path) -> Image:
    """Build the image: copy what its first stage copies, and run its steps there."""
    source, prefix = folder / "src", folder / "calltag"
    source.mkdir(parents=True)
    for name, arguments in instructions(0):
        match name:
            case "COPY":
                *sources, target = arguments.split()
                for each in sources:
                    _copy(ROOT / each, source / target / Path(each).name if target == "./" else source / target)
            case "RUN":
                _run(arguments.replace(_PREFIX, str(prefix)), source)
            case "WORKDIR":
                continue
            case _:
                raise AssertionError(f"the first stage has {name}, which this build does not know")
    return Image(prefix)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def _run(command: str, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHON": str(Path(sys.base_prefix) / "bin" / "python3"), **UNMEASURED}
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_S,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
