"""JSON from outside, read so that what is accepted can be kept and given back exactly."""

from calltag.core.strict_json.parsing import JsonLimits, JsonRefused, parse

__all__ = ["JsonLimits", "JsonRefused", "parse"]
