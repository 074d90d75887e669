"""Strict parser for untrusted JSON: accepted values can be stored and returned exactly.

Refused, rather than changed: invalid JSON (RFC 8259), nesting beyond the limit, integers beyond 64 bits, numbers that a
64-bit float cannot represent, lone surrogates, NUL characters, and objects with duplicate names.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import accumulate
from typing import Final, NoReturn

Place = Sequence[str | int]
"""Member names and list positions, from the outermost inwards."""

_PLAIN_NAME: Final = re.compile(r"[\w-]{1,64}")
_MAX_SHOWN: Final = 64
LEAST_INTEGER: Final = -(2**63)
MOST_INTEGER: Final = 2**64 - 1
_MAX_INTEGER_LENGTH: Final = 20
_MAX_FRACTION_LENGTH: Final = 64
_ALWAYS_EXACT_LENGTH: Final = sys.float_info.dig + 1
"""A normal float keeps any 15 significant digits; the text also has a point or an exponent."""
_LEAST_NORMAL: Final = sys.float_info.min
_MOST_NORMAL: Final = sys.float_info.max
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b"[]{},"))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Maps brackets to changes of depth: 1, or -1 as a signed byte."""
_DEEPEST: Final = 250
"""Maximum nesting of the encoder (orjson), less a reserve for what calltag wraps around a value."""
_SPECIAL_ESCAPE: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
"""NUL and lone surrogates can only be escaped: a raw one is not valid JSON, or not UTF-8."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_Place = tuple["_Place", str | int] | None
"""Linked list of steps into the value, the last one first."""


class JsonRefused(ValueError):
    """The text is refused; the message has the problem, the location and the limit, never a value.

    `path` is the location, such as `userData.Account[0]`; empty for the whole text.
    """

    def __init__(self, reason: str, place: Place = ()) -> None:
        self.reason = reason
        self.path = path_of(place)
        super().__init__(f"{self.path or 'the text'} {reason}")


class TextTooLarge(JsonRefused):
    """The text has more bytes than the limit."""


class TooDeep(JsonRefused):
    """Lists and objects are nested deeper than the limit."""


class TooManyValues(JsonRefused):
    """The text has more values than the limit."""


class NotJson(JsonRefused):
    """The text is not UTF-8, or not JSON by RFC 8259."""


class ValueNotKept(JsonRefused):
    """A value is valid JSON, but cannot be stored and returned unchanged."""


def path_of(place: Place) -> str:
    """Return the location as text, safe to show: unusual names are escaped in brackets, long ones cut."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_NAME.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


def shown(name: str) -> str:
    """Return any name quoted and cut for a message."""
    return json.dumps(name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}...")


class NumberNotKept(Exception):
    """The number cannot be stored exactly."""


def exact_integer(text: str) -> int:
    """Parse an integer of 64 bits, signed or unsigned. Raises NumberNotKept."""
    if len(text) <= _MAX_INTEGER_LENGTH and LEAST_INTEGER <= (number := int(text)) <= MOST_INTEGER:
        return number
    raise NumberNotKept(f"is a number beyond 64 bits ({LEAST_INTEGER} to {MOST_INTEGER})")


def exact_float(text: str) -> float:
    """Parse a number with a fraction or an exponent that a 64-bit float returns with the same value.

    Raises NumberNotKept.
    """
    number = float(text)
    if len(text) <= _ALWAYS_EXACT_LENGTH and _LEAST_NORMAL <= abs(number) <= _MOST_NORMAL:
        return number
    if len(text) > _MAX_FRACTION_LENGTH:
        raise NumberNotKept(f"is a number written with more than {_MAX_FRACTION_LENGTH} characters")
    if math.isinf(number):
        raise NumberNotKept("is a number too large for a 64-bit float")
    if 0 < abs(number) < _LEAST_NORMAL:
        raise NumberNotKept("is a number too small for a 64-bit float")
    if not _same_value(text, number):
        raise NumberNotKept("is a number with more digits than a 64-bit float can keep")
    return number


def _same_value(text: str, number: float) -> bool:
    shortest = repr(number)
    try:
        return text == shortest or Decimal(text) == Decimal(shortest)
    except InvalidOperation:  # an exponent beyond the range of Decimal
        return False


def without_byte_order_mark(text: bytes) -> bytes:
    """Return the text without the mark that some clients send; RFC 8259, section 8.1, allows parsers to skip it."""
    return text.removeprefix(_BYTE_ORDER_MARK)


@dataclass(frozen=True, slots=True)
class Structure:
    """Brackets outside strings, in order, and the number of commas outside strings."""

    brackets: bytes
    commas: int

    @classmethod
    def of(cls, text: bytes) -> "Structure":
        """Measure any text, valid or not; only C functions iterate over its bytes."""
        without_escapes = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        outside_strings = b"".join(without_escapes.split(b'"')[::2])
        structure = outside_strings.translate(None, _NOT_STRUCTURE)
        brackets = structure.translate(None, b",")
        return cls(brackets, len(structure) - len(brackets))

    @property
    def opened(self) -> int:
        """Number of lists and objects that begin."""
        return self.brackets.count(b"[") + self.brackets.count(b"{")

    @property
    def values(self) -> int:
        """Number of values in the outermost list or object, on all levels; empty lists and objects count twice.

        Each value except the first of its list or object has a comma before it.
        """
        return self.commas + self.opened

    def is_deeper_than(self, most: int) -> bool:
        """Return whether nesting exceeds `most` within the part a parser reads: up to where all could be closed."""
        steps = memoryview(self.brackets[: 2 * self.opened].translate(_STEPS)).cast("b")
        return max(accumulate(steps), default=0) > most


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


def parse(body: bytes, limits: JsonLimits) -> object:
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

    def value(self, text: bytes) -> object:
        """Raises NotJson."""
        decoder = json.JSONDecoder(
            object_pairs_hook=self._members,
            parse_int=partial(self._number, read=exact_integer),
            parse_float=partial(self._number, read=exact_float),
            parse_constant=_constant,
        )
        try:
            value: object = decoder.decode(text.decode())
        except UnicodeDecodeError as error:
            raise NotJson(f"is not UTF-8 (byte {error.start})") from None
        except json.JSONDecodeError as error:
            raise NotJson(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
        return value

    def _members(self, pairs: list[tuple[str, object]]) -> dict[str, object] | _NotKept:
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        self.refuses = True
        return _NotKept(f"has the same name twice ({shown(_twice(pairs))}), and one of its values would be lost")

    def _number(self, text: str, read: Callable[[str], int | float]) -> object:
        if self.refuses:
            # One reason is enough to refuse the text.
            return _NOT_READ
        try:
            return read(text)
        except NumberNotKept as refused:
            self.refuses = True
            return _NotKept(str(refused))


def _twice(pairs: Sequence[tuple[str, object]]) -> str:
    """Return the first repeated name."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    return name


def _constant(name: str) -> NoReturn:
    raise NotJson(f"is not JSON: {name} is no JSON value")


def _check(value: object, place: _Place) -> None:
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
