"""JSON from outside, read so that what is accepted can be kept and given back exactly."""

from calltag.core.strict_json.errors import JsonRefused, NotJson, TextTooLarge, TooDeep, TooManyValues, ValueNotKept
from calltag.core.strict_json.parsing import JsonLimits, parse

__all__ = ["JsonLimits", "JsonRefused", "NotJson", "TextTooLarge", "TooDeep", "TooManyValues", "ValueNotKept", "parse"]
