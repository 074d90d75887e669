"""Errors of authentication. If Redis is unavailable, `calltag.core.store.ports.StoreUnavailable` is raised."""

import math


class AuthenticationError(Exception):
    """Root of the errors of authentication."""


class WrongCredentials(AuthenticationError):
    """The credentials are wrong or malformed. The message does not say which part is wrong."""


class SessionOver(WrongCredentials):
    """The session of the cookie has ended or never existed."""

    def __init__(self) -> None:
        super().__init__("the session is over: sign in again")


class TooManyLogins(AuthenticationError):
    """The queue of password checks is full; retryable."""


class LockedOut(TooManyLogins):
    """Too many wrong passwords, for this user or from this address; a right one is refused as well."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = max(1, math.ceil(wait_s))
        super().__init__(f"too many failed logins; try again in {self.wait_s} s")
