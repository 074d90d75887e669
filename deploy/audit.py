"""Known vulnerabilities of what the locks name.

`python deploy/audit.py` fails only for what is found. Where PyPI's service for this cannot be reached, or does not know
a package (mirrors often lack it), it says so and does not fail: a network is no reason to stop work, and no proof.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")
OPTIONS = ["--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "5"]
DEADLINE_S = 120
Report = Mapping[str, Any]


def ask(lock: str) -> Report | None:
    """What is known of the packages of a lock; None if nobody could be asked."""
    command = [str(Path(sys.executable).with_name("pip-audit")), "-r", str(ROOT / lock), *OPTIONS]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=DEADLINE_S)  # noqa: S603 - our own
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return report if isinstance(report, dict) else None


def judge(reports: Mapping[str, Report | None]) -> tuple[Sequence[str], Sequence[str]]:
    """What is vulnerable, and what could not be looked at: a line each."""
    vulnerable, unknown = [], []
    for lock, report in reports.items():
        packages = report["dependencies"] if report is not None else []
        skipped = [each["name"] for each in packages if "skip_reason" in each]
        if report is None:
            unknown.append(f"{lock} was NOT audited: the service of vulnerabilities cannot be reached")
        elif skipped:
            few = f" ({', '.join(skipped)})" if len(skipped) <= 5 else ""
            unknown.append(
                f"{len(skipped)} of {len(packages)} packages of {lock} were NOT audited: the service does not know "
                f"them{few}"
            )
        for each in packages:
            vulnerable += [
                f"{lock}: {each['name']} {each['version']} has {found['id']}; "
                f"mended in {', '.join(found['fix_versions']) or 'no version yet'}"
                for found in each.get("vulns", [])
            ]
    return vulnerable, unknown


def main() -> int:
    """Tell; 1 if something is vulnerable."""
    with ThreadPoolExecutor(len(LOCKS)) as threads:
        reports = dict(zip(LOCKS, threads.map(ask, LOCKS), strict=True))
    vulnerable, unknown = judge(reports)
    for line in unknown:
        sys.stderr.write(f"audit: WARNING: {line}\n")
    for line in vulnerable:
        sys.stderr.write(f"audit: {line}\n")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
