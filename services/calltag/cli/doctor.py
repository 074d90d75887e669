"""All checks of `calltag doctor`."""

import asyncio

from calltag.cli.broker_findings import broker_findings, inbox_findings
from calltag.cli.output import Finding, ok, warn, wrong
from calltag.cli.store_findings import store_findings
from calltag.core.backends import NO_USERS, load_directory
from calltag.core.identity.directory import DirectoryError
from calltag.core.settings import Settings, unknown_settings


async def examine(settings: Settings) -> list[Finding]:
    """Check RabbitMQ, Redis and the directory of users."""
    looks = (broker_findings(settings), store_findings(settings), inbox_findings(settings))
    broker, store, inboxes = await asyncio.gather(*looks)
    return [*map(warn, unknown_settings()), *broker, *inboxes, *store, _directory(settings)]


def _directory(settings: Settings) -> Finding:
    try:
        users = load_directory(settings).users
    except DirectoryError as error:
        return wrong(str(error))
    if not users:
        return wrong(NO_USERS)
    if settings.directory.demo:
        return warn(
            "the directory is the demo contact centre, whose passwords are public; "
            "CALLTAG_DIRECTORY__FILE names another one"
        )
    return ok(f"the directory has {len(users)} users")
