"""Parsing under limits.

Refused, rather than changed: what is not JSON (RFC 8259), nesting beyond the limit, integers beyond 64 bits, numbers
that a 64-bit float cannot keep, lone surrogates, NUL characters, and objects with the same name twice.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final, NoReturn

from calltag.core.domain.json_value import JsonValue

_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1
_MAX_INTEGER_DIGITS: Final = 20
_MAX_NUMBER_LENGTH: Final = 64
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKETS: Final = re.compile(rb"[\[\]{}]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class JsonRefused(ValueError):
    """The text is not JSON, or holds what cannot be kept; the message says what, where and which limit."""


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """How large and how deep a text may be; the outermost object is depth 1."""

    max_bytes: int = 262_144
    max_depth: int = 16


def parse(text: bytes, limits: JsonLimits) -> JsonValue:
    """The value in the text. Raises JsonRefused."""
    if len(text) > limits.max_bytes:
        raise JsonRefused(f"the text is larger than {limits.max_bytes} bytes")
    _check_depth(text, limits.max_depth)
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise JsonRefused(f"the text is not UTF-8 (byte {error.start})") from None
    try:
        value = _DECODER.decode(decoded)
    except json.JSONDecodeError as error:
        raise JsonRefused(f"the text is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    _check_strings(value, ())
    return value


def _check_depth(text: bytes, most: int) -> None:
    """Count brackets outside strings: a text of a million brackets must not reach a recursive parser."""
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        if depth > most:
            raise JsonRefused(f"the text is nested more than {most} deep")


def _check_strings(value: JsonValue, path: tuple[str, ...]) -> None:
    if isinstance(value, str):
        _check_string(value, path)
    elif isinstance(value, dict):
        for name, member in value.items():
            _check_string(name, (*path, "a name"))
            _check_strings(member, (*path, name))
    elif isinstance(value, list):
        for position, member in enumerate(value):
            _check_strings(member, (*path, str(position)))


def _check_string(text: str, path: Iterable[str]) -> None:
    if "\0" in text:
        raise JsonRefused(f"{_place(path)} holds the character U+0000")
    if _SURROGATE.search(text):
        raise JsonRefused(f"{_place(path)} holds half of a surrogate pair")


def _place(path: Iterable[str]) -> str:
    return ".".join(path) or "the text"


def _members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise JsonRefused("an object holds the same name twice, and one of its values would be lost")
    return members


def _integer(text: str) -> int:
    number = int(text) if len(text) <= _MAX_INTEGER_DIGITS else _MOST + 1
    if not _LEAST <= number <= _MOST:
        raise JsonRefused(f"a number is beyond 64 bits ({_LEAST} to {_MOST})")
    return number


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise JsonRefused("a number is too large for a 64-bit float")
    if len(text) > _MAX_NUMBER_LENGTH or not _kept(text, number):
        raise JsonRefused("a number has more digits than a 64-bit float can keep")
    return number


def _kept(text: str, number: float) -> bool:
    try:
        return Decimal(text) == Decimal(repr(number))
    except InvalidOperation:
        return False  # The exponent is beyond what even a decimal can hold.


def _constant(text: str) -> NoReturn:
    raise JsonRefused(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
