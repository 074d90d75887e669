"""The limit of file descriptors is raised as far as it may be, and no more connections are promised than it allows."""

import subprocess
import sys

import pytest

from calltag.core.settings import load_settings
from calltag.serve import app

COMMAND = "from calltag.core.process.os_limits import raise_descriptor_limit as limit; print(limit(), limit())"


@pytest.mark.parametrize(
    ("limits", "told"), [("ulimit -Sn 100; ulimit -Hn 300", "300 300"), ("ulimit -n 200", "200 200")]
)
def test_the_soft_limit_is_raised_to_the_hard_one(limits: str, told: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'{limits}; exec "$0" -c "$1"', sys.executable, COMMAND],
        text=True, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == told


@pytest.mark.parametrize(("descriptors", "connections"), [(100_000, 500), (500, 116), (100, 1)])
def test_no_more_connections_are_served_than_there_are_descriptors_for(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, connections: int
) -> None:
    monkeypatch.setattr(app, "raise_descriptor_limit", lambda: descriptors)
    assert app.connection_limit(load_settings(max_connections=500)) == connections
