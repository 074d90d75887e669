"""The installation that the hubs' tests run on."""

from collections.abc import AsyncIterator

import pytest

from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.store.embedded import embedded_store
from parts.hubs import Installation

LIMITS = BayeuxLimits(max_sessions=5, max_sessions_per_user=3, max_subscriptions=2, max_queued_events=4)


@pytest.fixture
async def system() -> AsyncIterator[Installation]:
    async with embedded_store(None, deadline_s=20) as store:
        installation = Installation(store.client, LIMITS)
        yield installation
        await installation.settle()
