"""Strict parser for untrusted JSON: accepted values can be stored and returned exactly."""

from calltag.core.strict_json.errors import JsonRefused, NotJson, TextTooLarge, TooDeep, TooManyValues, ValueNotKept
from calltag.core.strict_json.parsing import JsonLimits, parse

__all__ = ["JsonLimits", "JsonRefused", "NotJson", "TextTooLarge", "TooDeep", "TooManyValues", "ValueNotKept", "parse"]
