"""The CPU that processes used, from the operating system (Linux: /proc)."""

import os
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SESSION, _RESIDENT = 3, 21
_CPU: Final = slice(11, 15)
"""User and system time, and the same of children that ended."""
"""Places in /proc/<pid>/stat, counted from the state, which comes after the name."""


def cpu_s(leader: int) -> float:
    """User and system seconds of a process and of all that it started in its session.

    Those that ended count as well, or a child of Redis that has written its file would take its time with it.
    """
    return sum(int(ticks) for stat in _of_session(leader) for ticks in stat[_CPU]) / _TICKS


def resident_bytes(leader: int) -> int:
    """The memory in use by the same processes."""
    return sum(int(stat[_RESIDENT]) for stat in _of_session(leader)) * _PAGE


def _of_session(leader: int) -> list[list[str]]:
    stats = [_stat(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [stat for stat in stats if stat and int(stat[_SESSION]) == leader]


def _stat(process: Path) -> list[str]:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
