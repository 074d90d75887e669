"""Strict JSON: what is accepted comes back as it was, and agrees with what Python's own reader says."""

import json
from decimal import Decimal

import orjson

from calltag.core.strict_json import JsonLimits, JsonRefused, parse
from fuzz.target import Target, depth_of
from fuzz.targets import codec

LIMITS = JsonLimits(max_bytes=2_048, max_depth=6)
WORDS = [*codec.WORDS, b"NaN", b"Infinity", b"1.0", b"0.1", b"1e308", b"1e-400", b"\x00", b'{"a":1,"a":2}', b"-0"]
SEEDS = [
    b'{"userData":{"Account":"12","Balance":1.5,"List":[1,"x",null,true]}}',
    b"[[[[[[1]]]]]]",
    b'"\\ud83d\\ude00"',
    b'{"a":1,"a":2}',
    b"[0.12345678901234567890, 1.5e3]",
]
_LONGEST_STEP = 6 * 80


def one_input(data: bytes) -> None:
    """What is accepted is within the limits and given back equal; a refusal is short and can be shown."""
    try:
        value = parse(data, LIMITS)
    except JsonRefused as refused:
        message = str(refused)
        assert len(message.encode()) <= _LONGEST_STEP * (LIMITS.max_depth + 1)
        return
    assert len(data) <= LIMITS.max_bytes
    assert depth_of(value) <= LIMITS.max_depth
    text = data.removeprefix(b"\xef\xbb\xbf")
    assert repr(value) == repr(json.loads(text))
    json.loads(text, object_pairs_hook=_each_once, parse_float=_exactly)
    assert repr(orjson.loads(orjson.dumps(value))) == repr(value)


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    assert len(members) == len(pairs)
    return members


def _exactly(text: str) -> float:
    number = float(text)
    assert Decimal(text) == Decimal(repr(number))
    return number


TARGET = Target("strict_json", one_input, SEEDS, WORDS)
