"""Why a user could not be identified. When the store is away, that is `calltag.core.store.ports.StoreUnavailable`."""

import math


class AuthenticationError(Exception):
    """Root of what can go wrong with credentials."""


class WrongCredentials(AuthenticationError):
    """Credentials were given and are not right, or not readable. The message does not say which part was wrong."""


class SessionOver(WrongCredentials):
    """A session cookie was shown, and its session has ended, or never was."""

    def __init__(self) -> None:
        super().__init__("the session is over: sign in again")


class TooManyLogins(AuthenticationError):
    """More passwords wait for being checked than may; the same may work later."""


class LockedOut(TooManyLogins):
    """Too many wrong passwords were tried, for this user or from this address; a right one is told the same."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = max(1, math.ceil(wait_s))
        super().__init__(f"too many failed logins; try again in {self.wait_s} s")
