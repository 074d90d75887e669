"""What processes hold in memory."""

from pathlib import Path


def resident_mb(pid: int) -> float:
    """The resident set of a process, in megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
