"""The option `--results` of the tests: what a whole run keeps, and repeats."""

from pathlib import Path

import pytest

from parts.kept_logs import KeptLogs
from parts.repeating import Repeating


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--results", metavar="FOLDER",
        help="repeat failed tests once, alone; keep counts of outcomes, and logs of failed tests' processes, there",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    results = config.getoption("results")
    folder = Path(results).resolve() if results else None
    config.pluginmanager.register(KeptLogs(folder))
    if folder is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Repeating(config, folder))
