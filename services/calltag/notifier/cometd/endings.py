"""Who wants to know that sessions ended."""

from typing import Protocol

import structlog

from calltag.core.bayeux.endings import Ending

log = structlog.get_logger()


class SessionListener(Protocol):
    """Each end is told once in the installation, as a rule: on the node that ended the session."""

    def ended(self, session: str, user: str, ending: Ending) -> None:
        """A session has ended; `session` is the handle by which operators name it."""
        ...


class EndingLog:
    """Implements SessionListener."""

    def ended(self, session: str, user: str, ending: Ending) -> None:
        log.info("cometd_session_ended", reason=str(ending), user=user, session=session)
