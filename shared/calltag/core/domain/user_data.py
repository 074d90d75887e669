"""User data: the key-value pairs of a call, as an ordered multimap."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

JsonValue: TypeAlias = object
"""A JSON value as `orjson.loads` returns it: string, number, boolean, null, or a list or object of those. The domain
never inspects such values."""

Pair = tuple[str, JsonValue]


@dataclass(frozen=True, slots=True)
class UserData:
    """Keys with their values, both in the order of attachment; every key has at least one value."""

    values: Mapping[str, tuple[JsonValue, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.values)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def pairs(self) -> Iterator[Pair]:
        """Iterate over all pairs of a key and one of its values."""
        return ((key, value) for key, values in self.values.items() for value in values)

    def attach(self, pairs: Iterable[Pair]) -> "UserData":
        """Add every pair, whether or not its key exists."""
        values = dict(self.values)
        for key, value in pairs:
            values[key] = (*values.get(key, ()), *_spread(value))
        return UserData(_without_empty(values))

    def update(self, pairs: Iterable[Pair]) -> "UserData":
        """Set each given key to the given value, replacing all its values."""
        values = dict(self.values)
        for key, value in pairs:
            values[key] = _spread(value)
        return UserData(_without_empty(values))

    def without(self, key: str) -> "UserData":
        """Remove a key with all its values."""
        return UserData({name: values for name, values in self.values.items() if name != key})

    def as_object(self) -> dict[str, JsonValue]:
        """Return the form of the API: a single value as itself, several as a list."""
        return {key: values[0] if len(values) == 1 else list(values) for key, values in self.values.items()}

    def size(self, encoded_bytes: Callable[[JsonValue], int]) -> "Size":
        """Return the size; `encoded_bytes` returns the length of a value's JSON."""
        pairs, size = 0, 0
        for key, values in self.values.items():
            pairs += len(values)
            size += len(key.encode()) * len(values) + sum(map(encoded_bytes, values))
        return Size(pairs, size)


@dataclass(frozen=True, slots=True)
class Size:
    """Size of user data: `pairs` counts each value of a key, `encoded_bytes` UTF-8 keys and JSON values."""

    pairs: int = 0
    encoded_bytes: int = 0

    @staticmethod
    def of(pairs: Iterable[Pair], encoded_bytes: Callable[[JsonValue], int]) -> "Size":
        """Return the size of the pairs as stored."""
        stored = [(key, value) for key, given in pairs for value in _spread(given)]
        return Size(len(stored), sum(len(key.encode()) + encoded_bytes(value) for key, value in stored))


def stored_pairs(pairs: Iterable[Pair]) -> int:
    """Return the number of pairs as stored."""
    return sum(len(_spread(value)) for _, value in pairs)


def _spread(value: JsonValue) -> tuple[JsonValue, ...]:
    """Return the stored values of a given one: each element of a list is a value of its key."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _without_empty(values: dict[str, tuple[JsonValue, ...]]) -> dict[str, tuple[JsonValue, ...]]:
    return {key: kept for key, kept in values.items() if kept} if () in values.values() else values
