"""Why a user could not be identified. When the store is away, that is `calltag.core.store.ports.StoreUnavailable`."""


class AuthenticationError(Exception):
    """Root of what can go wrong with credentials."""


class WrongCredentials(AuthenticationError):
    """Credentials were given and are not right, or not readable. The message does not say which part was wrong."""


class TooManyLogins(AuthenticationError):
    """More passwords wait for being checked than may; the same may work later."""
