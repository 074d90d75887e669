"""Ids of CometD sessions: unguessable, and each contains the user, under whose keys the session is stored."""

import base64
import secrets
from functools import lru_cache
from hashlib import sha256
from typing import Final

from calltag.core.domain.ids import UserId

_RANDOM_BYTES: Final = 20
_RANDOM_LENGTH: Final = 32
_BEARER: Final = "b"
_OF_LOGIN: Final = "c"
_REMEMBERED: Final = 20_000
"""Number of ids whose decoded user is cached: to decode one takes 3 us, and each connect asks for it."""
_DIGEST_LENGTH: Final = 32
HANDLE_LENGTH: Final = 12
_MAX_REMEMBERED_LENGTH: Final = 256
"""Longer ids are not cached: unauthenticated clients may send ids as long as a request."""


def new_client_id(user: UserId, *, bearer: bool) -> str:
    """Return an id of letters and digits with 160 random bits, followed by the user.

    With `bearer` the id is sufficient proof of the user, as the handshake itself carried the credentials.
    """
    name = base64.b32encode(user.encode()).decode().rstrip("=")
    kind = _BEARER if bearer else _OF_LOGIN
    return kind + (base64.b32encode(secrets.token_bytes(_RANDOM_BYTES)).decode() + name).lower()


def is_bearer(client_id: str) -> bool:
    """Return whether the id is sufficient proof of the user without credentials."""
    return client_id.startswith(_BEARER)


def digest_of(client_id: str) -> str:
    """Return 128 bits of the id's SHA-256, which identify a session in Redis and to operators without its id."""
    return sha256(client_id.encode(errors="replace")).hexdigest()[:_DIGEST_LENGTH]


def handle_of(client_id: str) -> str:
    """Return the beginning of the digest, by which operators name the session."""
    return digest_of(client_id)[:HANDLE_LENGTH]


def user_of(client_id: str) -> UserId | None:
    """Return the user in the id, without checking that the session exists; None if the id is malformed."""
    return _remembered(client_id) if len(client_id) <= _MAX_REMEMBERED_LENGTH else _decoded(client_id)


@lru_cache(maxsize=_REMEMBERED)
def _remembered(client_id: str) -> UserId | None:
    return _decoded(client_id)


def _decoded(client_id: str) -> UserId | None:
    name = client_id[1 + _RANDOM_LENGTH :].upper()
    try:
        decoded = base64.b32decode(name + "=" * (-len(name) % 8)).decode()
    except ValueError:
        return None
    return UserId(decoded) if decoded and client_id.isalnum() else None
