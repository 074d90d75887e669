"""The ids of CometD sessions: unguessable, and each leads to the user under whom the session is kept."""

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
"""How many ids are not decoded again."""
_DIGEST_LENGTH: Final = 32
HANDLE_LENGTH: Final = 12
_MAX_REMEMBERED_LENGTH: Final = 256
"""Longer ones are not kept: anybody may send ids, as long as a request."""


def new_client_id(user: UserId, *, bearer: bool) -> str:
    """An unguessable id with 160 random bits, in letters and digits; it leads to the place where the session is kept.

    `bearer` says that whoever shows the id needs no other proof: the handshake itself had the credentials.
    """
    name = base64.b32encode(user.encode()).decode().rstrip("=")
    kind = _BEARER if bearer else _OF_LOGIN
    return kind + (base64.b32encode(secrets.token_bytes(_RANDOM_BYTES)).decode() + name).lower()


def is_bearer(client_id: str) -> bool:
    """Whether the id itself is proof enough where no credentials are shown."""
    return client_id.startswith(_BEARER)


def digest_of(client_id: str) -> str:
    """Return 128 bits of the id's SHA-256, by which the store and operators know a session without its id."""
    return _remembered_digest(client_id) if len(client_id) <= _MAX_REMEMBERED_LENGTH else _digest(client_id)


def handle_of(client_id: str) -> str:
    """Return the beginning of the digest, by which operators name the session."""
    return digest_of(client_id)[:HANDLE_LENGTH]


@lru_cache(maxsize=_REMEMBERED)
def _remembered_digest(client_id: str) -> str:
    return _digest(client_id)


def _digest(client_id: str) -> str:
    return sha256(client_id.encode(errors="replace")).hexdigest()[:_DIGEST_LENGTH]


def user_of(client_id: str) -> UserId | None:
    """The user whose session it is, if it is one; None if it can be no id of a session."""
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
