"""Parsing under limits.

Refused, rather than changed: what is not JSON (RFC 8259), nesting beyond the limit, integers beyond 64 bits, numbers
that a 64-bit float cannot keep, lone surrogates, NUL characters, and objects with the same name twice.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from calltag.core.domain.json_value import JsonValue
from calltag.core.strict_json.errors import NotJson, Place, TextTooLarge, TooDeep, ValueNotKept, shown
from calltag.core.strict_json.numbers import NumberNotKept, exact_float, exact_integer

_DEEPEST: Final = 250
"""What the encoder on the way out (orjson) nests, with some to spare for what calltag puts around a value."""
_STRINGS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKETS: Final = re.compile(rb"[\[\]{}]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """How large and how deep a text may be; the outermost object or list is depth 1, and 250 is the deepest."""

    max_bytes: int = 262_144
    max_depth: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.max_depth <= _DEEPEST:
            raise ValueError(f"max_depth must be 1 to {_DEEPEST}, not {self.max_depth}")


@dataclass(frozen=True, slots=True)
class _NotKept:
    """Stands in the parsed value where something cannot be kept, until the walk finds its place."""

    reason: str


def parse(body: bytes, limits: JsonLimits) -> JsonValue:
    """The value in the text; `orjson.dumps` and `orjson.loads` give it back equal. Raises JsonRefused."""
    if len(body) > limits.max_bytes:
        raise TextTooLarge(f"is larger than {limits.max_bytes} bytes")
    _check_depth(body, limits.max_depth)
    value = _decoded(body)
    _check(value, [])
    return value


def _check_depth(body: bytes, most: int) -> None:
    """Count brackets outside strings: a text of a million brackets must not reach a recursive parser."""
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > most:
            raise TooDeep(f"is nested more than {most} deep")


def _decoded(body: bytes) -> JsonValue:
    try:
        value: JsonValue = _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        raise NotJson(f"is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    return value


def _check(value: JsonValue, place: list[str | int]) -> None:
    """Refuse the first thing, in the order of the text, that cannot be kept; recursion is bounded by the depth."""
    if isinstance(value, str):
        _check_text(value, place)
    elif isinstance(value, dict):
        for name, member in value.items():
            _check_text(name, place, "has a name that ")
            _check(member, [*place, name])
    elif isinstance(value, list):
        for position, member in enumerate(value):
            _check(member, [*place, position])
    elif isinstance(value, _NotKept):
        raise ValueNotKept(value.reason, place)


def _check_text(text: str, place: Place, whose: str = "") -> None:
    if "\0" in text:
        raise ValueNotKept(f"{whose}holds the character U+0000", place)
    if _SURROGATE.search(text):
        raise ValueNotKept(f"{whose}holds half of a surrogate pair", place)


def _members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue] | _NotKept:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
    return _NotKept(f"has the same name twice ({shown(twice)}), and one of its values would be lost")


def _kept(read: Callable[[str], int | float]) -> Callable[[str], JsonValue]:
    def number(text: str) -> JsonValue:
        try:
            return read(text)
        except NumberNotKept as refused:
            return _NotKept(str(refused))

    return number


def _constant(name: str) -> NoReturn:
    raise NotJson(f"is not JSON: {name} is no JSON value")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members,
    parse_int=_kept(exact_integer),
    parse_float=_kept(exact_float),
    parse_constant=_constant,
)
