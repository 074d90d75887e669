"""Parsing with limits.

Refused, rather than changed: invalid JSON (RFC 8259), nesting beyond the limit, integers beyond 64 bits, numbers that a
64-bit float cannot represent, lone surrogates, NUL characters, and objects with duplicate names.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn

from calltag.core.domain.user_data import JsonValue
from calltag.core.strict_json.errors import (
    NotJson,
    Place,
    TextTooLarge,
    TooDeep,
    TooManyValues,
    ValueNotKept,
    shown,
)
from calltag.core.strict_json.numbers import NumberNotKept, exact_float, exact_integer
from calltag.core.strict_json.structure import Structure, without_byte_order_mark

_DEEPEST: Final = 250
"""Maximum nesting of the encoder (orjson), less a reserve for what calltag wraps around a value."""
_SPECIAL_ESCAPE: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
"""NUL and lone surrogates can only be escaped: a raw one is not valid JSON, or not UTF-8."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """Limits on a text.

    The outermost object or list has depth 1; `max_depth` is at most 250. `max_values` bounds the work of the parser:
    it counts values on all levels, an empty list or object twice.
    """

    max_bytes: int = 262_144
    max_depth: int = 16
    max_values: int = 20_000

    def __post_init__(self) -> None:
        if not 1 <= self.max_depth <= _DEEPEST:
            raise ValueError(f"max_depth must be 1 to {_DEEPEST}, not {self.max_depth}")


@dataclass(frozen=True, slots=True)
class _NotKept:
    """Placeholder in the parsed value for one that cannot be stored, until the walk finds its location."""

    reason: str


_NOT_READ: Final = _NotKept("is not read, as the text is refused")

_Place = tuple["_Place", str | int] | None
"""Linked list of steps into the value, the last one first."""


def parse(body: bytes, limits: JsonLimits) -> JsonValue:
    """Parse a value that survives `orjson.dumps` and `orjson.loads` unchanged. Raises JsonRefused."""
    if len(body) > limits.max_bytes:
        raise TextTooLarge(f"is larger than {limits.max_bytes} bytes")
    text = without_byte_order_mark(body)
    structure = Structure.of(text)
    if structure.values > limits.max_values:
        raise TooManyValues(f"has more than {limits.max_values} values")
    if structure.is_deeper_than(limits.max_depth):
        raise TooDeep(f"is nested more than {limits.max_depth} deep")
    decoder = _Decoder()
    value = decoder.value(text)
    if decoder.refuses or _SPECIAL_ESCAPE.search(text):
        _check(value, None)
    return value


class _Decoder:
    """Decodes one text. `refuses` is True if it has a value that cannot be stored."""

    def __init__(self) -> None:
        self.refuses = False

    def value(self, text: bytes) -> JsonValue:
        """Raises NotJson."""
        decoder = json.JSONDecoder(
            object_pairs_hook=self._members,
            parse_int=partial(self._number, read=exact_integer),
            parse_float=partial(self._number, read=exact_float),
            parse_constant=_constant,
        )
        try:
            value: JsonValue = decoder.decode(text.decode())
        except UnicodeDecodeError as error:
            raise NotJson(f"is not UTF-8 (byte {error.start})") from None
        except json.JSONDecodeError as error:
            raise NotJson(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
        return value

    def _members(self, pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue] | _NotKept:
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        self.refuses = True
        return _NotKept(f"has the same name twice ({shown(_twice(pairs))}), and one of its values would be lost")

    def _number(self, text: str, read: Callable[[str], int | float]) -> JsonValue:
        if self.refuses:
            # One reason is enough to refuse the text.
            return _NOT_READ
        try:
            return read(text)
        except NumberNotKept as refused:
            self.refuses = True
            return _NotKept(str(refused))


def _twice(pairs: Sequence[tuple[str, JsonValue]]) -> str:
    """Return the first repeated name."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    return name


def _constant(name: str) -> NoReturn:
    raise NotJson(f"is not JSON: {name} is no JSON value")


def _check(value: JsonValue, place: _Place) -> None:
    """Refuse the first value, in text order, that cannot be stored; recursion is bounded by the depth."""
    if isinstance(value, str):
        _check_text(value, place)
    elif isinstance(value, dict):
        for name, member in value.items():
            _check_text(name, place, "has a name that ")
            _check(member, (place, name))
    elif isinstance(value, list):
        for position, member in enumerate(value):
            _check(member, (place, position))
    elif isinstance(value, _NotKept):
        raise ValueNotKept(value.reason, _steps(place))


def _check_text(text: str, place: _Place, whose: str = "") -> None:
    if "\0" in text:
        raise ValueNotKept(f"{whose}holds the character U+0000", _steps(place))
    if _SURROGATE.search(text):
        raise ValueNotKept(f"{whose}holds half of a surrogate pair", _steps(place))


def _steps(place: _Place) -> Place:
    """Return the steps from the outermost inwards."""
    steps: list[str | int] = []
    while place is not None:
        place, step = place
        steps.append(step)
    return steps[::-1]
