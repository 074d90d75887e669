"""What `calltag doctor` finds."""

import re
from dataclasses import dataclass
from enum import Enum


class Grade(Enum):
    """How a finding is shown: WRONG keeps calltag from working, and makes the exit code 1."""

    OK = "ok   "
    WARN = "warn "
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at, in plain words."""

    grade: Grade
    text: str

    @property
    def line(self) -> str:
        """As it is printed."""
        return f"{self.grade.value}  {self.text}"


def ok(text: str) -> Finding:
    """It is as it should be, or of no concern."""
    return Finding(Grade.OK, text)


def warn(text: str) -> Finding:
    """It works, and an operator would not want it so."""
    return Finding(Grade.WARN, text)


def wrong(text: str) -> Finding:
    """It does not work."""
    return Finding(Grade.WRONG, text)


def version_finding(name: str, version: str, least: tuple[int, int]) -> Finding:
    """Whether the version, as in `3.10.8` or `4.2.0-rc.1`, is not too old."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    needed = ".".join(map(str, least))
    if numbers is None:
        return ok(f"{name} is reachable and does not tell its version; calltag needs {needed} or newer")
    if (int(numbers[1]), int(numbers[2])) < least:
        return wrong(f"{name} {version} is reachable; calltag needs {needed} or newer")
    return ok(f"{name} {version} is reachable")
