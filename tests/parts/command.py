"""The command `calltag`, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

CALLTAG = [sys.executable, "-c", "from calltag.cli.main import main; main()"]
UNMEASURED = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
"""Variables of a process whose coverage is not measured, which makes it faster."""


def calltag(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end; `environment` are variables beside those of the tests."""
    return subprocess.run(
        [*CALLTAG, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        timeout=90,
        check=False,
    )
