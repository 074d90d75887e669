"""Who wants to know that sessions ended."""

from typing import Final, Protocol

import structlog

from calltag.core.bayeux.endings import Ending

log = structlog.get_logger()
_SHOWN: Final = 8


class SessionListener(Protocol):
    """Each end is told once in the installation, as a rule: on the node that ended the session."""

    def ended(self, client_id: str, user: str, ending: Ending) -> None:
        """A session has ended."""
        ...


class EndingLog:
    """Implements SessionListener. An id may be proof enough to go on with a session, so none is written whole."""

    def ended(self, client_id: str, user: str, ending: Ending) -> None:
        log.info("cometd_session_ended", reason=str(ending), user=user, client=client_id[:_SHOWN])
