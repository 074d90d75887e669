"""What `calltag doctor` looks at."""

import asyncio

from calltag.cli.broker_findings import broker_findings
from calltag.cli.finding import Finding
from calltag.cli.store_findings import store_findings
from calltag.core.backends import NO_USERS, load_directory
from calltag.core.identity.directory_file import DirectoryError
from calltag.core.settings import Settings


async def examine(settings: Settings) -> list[Finding]:
    """Look at broker, store and directory."""
    broker, store = await asyncio.gather(broker_findings(settings), store_findings(settings))
    return [*broker, *store, _directory(settings)]


def _directory(settings: Settings) -> Finding:
    try:
        users = load_directory(settings).users
    except DirectoryError as error:
        return Finding(False, str(error))
    if not users:
        return Finding(False, NO_USERS)
    return Finding(True, f"the directory has {len(users)} users")
