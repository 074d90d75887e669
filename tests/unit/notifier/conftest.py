"""The installation that the tests of the notifier run on."""

from collections.abc import AsyncIterator

import pytest

from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.store.embedded import embedded_store
from parts.hubs import Installation

LIMITS = BayeuxLimits(max_sessions=5, max_sessions_per_user=3, max_subscriptions=2, max_queued_events=4)
LEASE_MS = 60_000
"""Longer than a test takes on a slow machine."""


@pytest.fixture
async def system() -> AsyncIterator[Installation]:
    async with embedded_store(None, deadline_s=20) as store:
        installation = Installation(store.client, LIMITS, lease_ms=LEASE_MS)
        await installation.begin()
        yield installation
        await installation.settle()
