"""Validation of parameters in a request's JSON object; each error names the parameter and the limit."""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from calltag.core.domain.user_data import JsonValue, Pair, Size, stored_pairs
from calltag.gateway.errors import OutOfRange, ParameterMissing

Body = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class UserDataLimits:
    """Limits of the user data in one request."""

    max_pairs: int = 1_000
    max_bytes: int = 65_536
    max_key_bytes: int = 255


def required_text(body: Body, name: str, *, max_bytes: int = 255) -> str:
    """Return a string that is present and not empty. Raises ParameterMissing, OutOfRange."""
    if name not in body or body[name] is None:
        raise ParameterMissing(f"{name} is missing")
    value = body[name]
    if not isinstance(value, str):
        raise OutOfRange(f"{name} must be a string")
    if not value:
        raise OutOfRange(f"{name} must not be empty")
    if len(value.encode()) > max_bytes:
        raise OutOfRange(f"{name} is longer than {max_bytes} bytes")
    return value


def optional_text(body: Body, name: str, default: str, *, max_bytes: int = 255) -> str:
    """Return a string, or the default if it is missing. Raises OutOfRange."""
    return required_text(body, name, max_bytes=max_bytes) if body.get(name) is not None else default


def required_object(body: Body, name: str) -> Body:
    """Return a JSON object. Raises ParameterMissing, OutOfRange."""
    if name not in body or body[name] is None:
        raise ParameterMissing(f"{name} is missing")
    value = body[name]
    if not isinstance(value, dict):
        raise OutOfRange(f"{name} must be a JSON object")
    return value


def required_list(body: Body, name: str, *, max_items: int) -> list[JsonValue]:
    """Return a list that is not empty. Raises ParameterMissing, OutOfRange."""
    if name not in body or body[name] is None:
        raise ParameterMissing(f"{name} is missing")
    value = body[name]
    if not isinstance(value, list) or not value:
        raise OutOfRange(f"{name} must be a list of at least one")
    if len(value) > max_items:
        raise OutOfRange(f"{name} has {len(value)} entries; at most {max_items} are allowed")
    return value


def user_data(body: Body, limits: UserDataLimits, *, required: bool = True) -> tuple[Pair, ...]:
    """Return the pairs of `userData`. Raises ParameterMissing, OutOfRange."""
    if not required and body.get("userData") is None:
        return ()
    pairs = tuple(required_object(body, "userData").items())
    for key, _ in pairs:
        _check_key(key, "userData: a key", limits)
    # Counted before any value is encoded, so that a request far beyond the limit costs little.
    count = stored_pairs(pairs)
    if count > limits.max_pairs:
        raise OutOfRange(f"userData has {count} pairs; a request may carry {limits.max_pairs}")
    size = Size.of(pairs, lambda value: len(orjson.dumps(value)))
    if size.encoded_bytes > limits.max_bytes:
        raise OutOfRange(f"userData has {size.encoded_bytes} bytes; a request may carry {limits.max_bytes}")
    return pairs


def user_data_key(body: Body, limits: UserDataLimits) -> str:
    """Return the parameter `key`. Raises ParameterMissing, OutOfRange."""
    return required_text(body, "key", max_bytes=limits.max_key_bytes)


def _check_key(key: str, what: str, limits: UserDataLimits) -> None:
    if not key:
        raise OutOfRange(f"{what} is empty")
    if len(key.encode()) > limits.max_key_bytes:
        raise OutOfRange(f"{what} is longer than {limits.max_key_bytes} bytes")
