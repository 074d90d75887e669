"""Reasons for the end of sessions."""

from enum import StrEnum


class Ending(StrEnum):
    """Reason for the end of a session.

    In this order: the client disconnected; it sent nothing for too long; it sent only connects for too long; the login
    that authenticated its user ended; an operator closed it.
    """

    DISCONNECTED = "disconnected"
    EXPIRED = "expired"
    INACTIVE = "inactive"
    LOGIN_ENDED = "login_ended"
    CLOSED = "closed"
