"""Why sessions end."""

from enum import StrEnum


class Ending(StrEnum):
    """Reasons for the end of a session.

    The client itself; that nothing was received from it; that it sent nothing but connects for too long; that the login
    which proved its user is over; or an operator.
    """

    DISCONNECTED = "disconnected"
    EXPIRED = "expired"
    INACTIVE = "inactive"
    LOGIN_ENDED = "login_ended"
    CLOSED = "closed"
