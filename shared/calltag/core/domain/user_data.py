"""User data: the key-value pairs that travel with a call, as an ordered multimap."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from calltag.core.domain.json_value import JsonValue

Pair = tuple[str, JsonValue]


@dataclass(frozen=True, slots=True)
class UserData:
    """Key to the values attached under it, both in the order in which they came; no key is without a value."""

    values: Mapping[str, tuple[JsonValue, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.values)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def pairs(self) -> Iterator[Pair]:
        """Every key with every one of its values."""
        return ((key, value) for key, values in self.values.items() for value in values)

    def attach(self, pairs: Iterable[Pair]) -> "UserData":
        """Add every pair, whether or not its key is there already."""
        values = dict(self.values)
        for key, value in pairs:
            values[key] = (*values.get(key, ()), *_spread(value))
        return UserData(_without_empty(values))

    def update(self, pairs: Iterable[Pair]) -> "UserData":
        """Set every key given to the value given, dropping what was there under it."""
        values = dict(self.values)
        for key, value in pairs:
            values[key] = _spread(value)
        return UserData(_without_empty(values))

    def without(self, key: str) -> "UserData":
        """Drop all values of one key."""
        return UserData({name: values for name, values in self.values.items() if name != key})

    def as_object(self) -> dict[str, JsonValue]:
        """What clients see: one value stands as itself, several stand as a list."""
        return {key: values[0] if len(values) == 1 else list(values) for key, values in self.values.items()}

    def size(self, encoded_bytes: Callable[[JsonValue], int]) -> "Size":
        """How much this is, each value weighed by `encoded_bytes` (the length of its JSON)."""
        pairs, size = 0, 0
        for key, values in self.values.items():
            pairs += len(values)
            size += len(key.encode()) * len(values) + sum(map(encoded_bytes, values))
        return Size(pairs, size)


@dataclass(frozen=True, slots=True)
class Size:
    """An amount of user data: `pairs` counts each value of a key, `encoded_bytes` UTF-8 keys and JSON values."""

    pairs: int = 0
    encoded_bytes: int = 0

    @staticmethod
    def of(pairs: Iterable[Pair], encoded_bytes: Callable[[JsonValue], int]) -> "Size":
        """The size of the pairs as they would be stored."""
        stored = [(key, value) for key, given in pairs for value in _spread(given)]
        return Size(len(stored), sum(len(key.encode()) + encoded_bytes(value) for key, value in stored))


def stored_pairs(pairs: Iterable[Pair]) -> int:
    """How many pairs would be stored of these."""
    return sum(len(_spread(value)) for _, value in pairs)


def _spread(value: JsonValue) -> tuple[JsonValue, ...]:
    """A list given as a value is that many values of its key."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _without_empty(values: dict[str, tuple[JsonValue, ...]]) -> dict[str, tuple[JsonValue, ...]]:
    return {key: kept for key, kept in values.items() if kept} if () in values.values() else values
