"""A gateway in the test's own process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parts.in_process import InProcess, in_process


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcess]:
    async with in_process(tmp_path) as made:
        yield made
