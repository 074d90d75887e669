"""The values that user data may hold."""

from typing import TypeAlias

JsonValue: TypeAlias = object
"""A string, number, boolean or null, or a list or object of such: what `orjson.loads` gives. The domain keeps such
values as they are and looks into none of them."""
