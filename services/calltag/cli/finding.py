"""What `calltag doctor` finds."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at, in plain words."""

    good: bool
    text: str


def version_finding(name: str, version: str, least: tuple[int, int]) -> Finding:
    """Whether the version, as in `3.10.8` or `4.2.0-rc.1`, is not too old."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    needed = ".".join(map(str, least))
    if numbers is None:
        return Finding(True, f"{name} is reachable and does not tell its version; calltag needs {needed} or newer")
    enough = (int(numbers[1]), int(numbers[2])) >= least
    return Finding(enough, f"{name} {version} is reachable" + ("" if enough else f"; calltag needs {needed} or newer"))
