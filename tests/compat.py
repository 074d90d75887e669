"""The tests of what calltag stands on, with other versions of RabbitMQ, Redis and Valkey: `make compat`.

The versions are those of this machine, and those of a newer Debian in a folder, from where they are run by chroot: that
needs root. The result is docs/versions.md.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "versions.md"
SUITE: Final = "trixie"
_PACKAGES: Final = "rabbitmq-server,redis-server,valkey-server"
_RABBITMQ: Final = "/usr/lib/rabbitmq/bin"
_CHAOS_S: Final = 30
# $1 is the other Debian, the rest the command. Files of tests are in the folder for temporary files, in both.
_INSIDE: Final = """#!/bin/sh
exec unshare --mount --propagation=private sh -c '
root=$1; shift
mkdir -p "$root{temporary}"
mount --rbind {temporary} "$root{temporary}" || exit 1
mount --bind /proc "$root/proc" && mount --rbind /dev "$root/dev" || exit 1
case "$PWD" in {temporary}/*) folder=$PWD ;; *) folder=/ ;; esac
exec chroot "$root" env --chdir="$folder" "$@"' sh {root} {command} "$@"
"""


class NotPossible(Exception):
    """This machine cannot run the tests; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Servers:
    """A set of servers: the folder of their commands, "" for those of this machine."""

    name: str
    folder: str = ""

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, **({"CALLTAG_TEST_SERVERS": self.folder} if self.folder else {})}

    def version(self, *command: str) -> str:
        """Return the version that a command prints, with the name of the server."""
        program = str(Path(self.folder) / command[0]) if self.folder else _of_this_machine(command[0])
        printed = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, check=True, cwd=tempfile.gettempdir()
        ).stdout
        found = re.search(r"\d+\.\d+\.\d+", printed)
        if found is None:
            raise NotPossible(f"{program} does not say its version: {printed}")
        return found[0]


def _of_this_machine(name: str) -> str:
    own = Path(_RABBITMQ) / name
    return str(own) if own.exists() else name


def other_debian(folder: Path) -> Path:
    """Install the newer Debian into the folder, unless it is there; return its root. Raises NotPossible."""
    root = folder / SUITE
    if (root / "usr" / "sbin" / "rabbitmq-server").exists():
        return root
    if os.geteuid() != 0:
        raise NotPossible("the other versions are run by chroot, which needs root: run make compat as root")
    print(
        f"Installing RabbitMQ, Redis and Valkey of Debian {SUITE} into {root} (once; a minute or two) ...", flush=True
    )
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", SUITE, str(root)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotPossible("debootstrap is not installed; run: apt-get install debootstrap") from None
    if done.returncode:
        raise NotPossible(f"debootstrap failed: {done.stderr or done.stdout[-2000:]}")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    return root


def commands(folder: Path, root: Path, store: str) -> Servers:
    """Return the servers of the newer Debian, with `redis-server` or `valkey-server` as the store."""
    where = folder / f"commands-{store}"
    where.mkdir(parents=True, exist_ok=True)
    programs = {
        "rabbitmq-server": f"{_RABBITMQ}/rabbitmq-server",
        "rabbitmqctl": f"{_RABBITMQ}/rabbitmqctl",
        "redis-server": f"/usr/bin/{store}",
    }
    for name, program in programs.items():
        (where / name).write_text(_INSIDE.format(root=root, command=program, temporary=tempfile.gettempdir()))
        (where / name).chmod(0o755)
    return Servers(f"Debian {SUITE}, {store.removesuffix('-server')}", str(where))


@dataclass(frozen=True, slots=True)
class Result:
    """The result of the tests with some servers."""

    rabbitmq: str
    store: str
    tests: str
    chaos: str

    @property
    def is_good(self) -> bool:
        last = self.tests.rpartition("; ")[2]
        return "failed" not in last and "error" not in last and self.chaos == "holds"


def tried(servers: Servers, folders: Sequence[str], jobs: int) -> Result:
    """Run the tests and one seed of chaos with these servers."""
    rabbitmq = f"RabbitMQ {servers.version('rabbitmqctl', 'version')}"
    kind = "Valkey" if "valkey" in servers.name else "Redis"
    store = f"{kind} {servers.version('redis-server', '--version')}"
    print(f"\n{rabbitmq} and {store}:", flush=True)
    began_s = time.monotonic()
    pytest = [sys.executable, "-m", "pytest", "-q"]
    summary = _counts([*pytest, "--cache-clear", "-n", str(jobs), "--dist", "loadfile", *folders], servers)
    if "failed" in summary or "error" in summary:
        # As make test does: a busy machine fails a test now and then, and the second time it has the machine alone.
        print("Once more, those that failed:", flush=True)
        again = _counts([*pytest, "--last-failed", "--last-failed-no-failures", "none", *folders], servers)
        summary = f"{summary}; again, alone: {again}"
    print(f"{summary} ({time.monotonic() - began_s:.0f} s)", flush=True)
    chaos = subprocess.run(
        [sys.executable, "-m", "chaos", "--seed", "1", "--seconds", str(_CHAOS_S)],
        cwd=ROOT, env={**servers.environment, "PYTHONPATH": "tests"}, check=False,
    )  # fmt: skip
    return Result(rabbitmq, store, summary, "does not hold" if chaos.returncode else "holds")


def _counts(command: Sequence[str], servers: Servers) -> str:
    """Run the tests, show what they print, and return how many passed and failed."""
    with subprocess.Popen(command, cwd=ROOT, env=servers.environment, stdout=subprocess.PIPE, text=True) as running:
        lines = []
        for line in running.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)", lines[-1] if lines else "")
    return ", ".join(counts) or "error: the tests did not run"


def page(results: Sequence[Result], folders: Sequence[str]) -> str:
    """Return the page of tested versions."""
    rows = "\n".join(f"| {each.rabbitmq} | {each.store} | {each.tests} | {each.chaos} |" for each in results)
    return f"""# Tested versions

This page is for operators: the versions of RabbitMQ, Redis and Valkey with which the tests in
{" and ".join(f"`{each}`" for each in folders)} and seed 1 of `make chaos` ran, on {datetime.now(UTC):%Y-%m-%d}.
`make compat` writes it.

| RabbitMQ | store | tests | chaos, {_CHAOS_S} s |
| --- | --- | --- | --- |
{rows}

calltag uses nothing that the oldest of these versions lacks, and nothing that the newest has deprecated. `calltag
doctor` reports versions that are too old.
"""


def main() -> int:
    """Run everything; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir(), "calltag-compat"),
        help="where the other Debian is kept",
    )
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), help="tests at a time")
    parser.add_argument("folders", nargs="*", default=["tests/contract", "tests/e2e"], help="folders of tests")
    chosen = parser.parse_args()
    try:
        root = other_debian(chosen.folder)
        sets = [
            Servers("this machine"),
            *(commands(chosen.folder, root, each) for each in ("redis-server", "valkey-server")),
        ]
        results = [tried(each, chosen.folders, chosen.jobs) for each in sets]
    except NotPossible as reason:
        print(f"compat: {reason}", file=sys.stderr)
        return 1
    PAGE.write_text(page(results, chosen.folders))
    print(f"\nwrote {PAGE.relative_to(ROOT)}")
    for each in results:
        print(f"{each.rabbitmq}, {each.store}: {each.tests}; chaos {each.chaos}")
    return 0 if all(each.is_good for each in results) else 1


if __name__ == "__main__":
    sys.exit(main())
