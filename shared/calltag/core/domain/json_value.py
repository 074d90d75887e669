"""Type of the values of user data."""

from typing import TypeAlias

JsonValue: TypeAlias = object
"""A JSON value as `orjson.loads` returns it: string, number, boolean, null, or a list or object of those. The domain
never inspects such values."""
