"""Exact parsing of numbers: those that would change are refused."""

import math
import sys
from decimal import Decimal, InvalidOperation
from typing import Final

LEAST_INTEGER: Final = -(2**63)
MOST_INTEGER: Final = 2**64 - 1
_MAX_INTEGER_LENGTH: Final = 20
_MAX_FRACTION_LENGTH: Final = 64
_ALWAYS_EXACT_LENGTH: Final = sys.float_info.dig + 1
"""A normal float keeps any 15 significant digits; the text also has a point or an exponent."""
_LEAST_NORMAL: Final = sys.float_info.min
_MOST_NORMAL: Final = sys.float_info.max


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
