"""The installation on which rules are tested that take more than one message."""

from collections.abc import AsyncIterator

import pytest

from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.store.embedded import embedded_store
from parts.hubs import Installation

LIMITS = BayeuxLimits(timeout_ms=5_000, interval_ms=10, max_interval_ms=2_000, drain_spread_ms=3_000)


@pytest.fixture
async def system() -> AsyncIterator[Installation]:
    async with embedded_store(None, deadline_s=30) as store:
        installation = Installation(store.client, LIMITS)
        await installation.begin()
        yield installation
        await installation.settle()
