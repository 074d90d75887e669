"""What is accepted can be kept exactly; everything else is refused with a reason."""

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calltag.core.strict_json import JsonLimits, JsonRefused, parse

LIMITS = JsonLimits(max_bytes=2_000, max_depth=4)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner), max_leaves=20)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "line 1, column 2"),
        (b'{"a":1}x', "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'"' + b"x" * 2_000 + b'"', "2000 bytes"),
        (b"[[[[[1]]]]]", "nested more than 4 deep"),
        (b"[" * 1_999, "nested more than 4 deep"),
        (b'{"a":{"b":"\\u0000"}}', r"a\.b holds the character U\+0000"),
        (b'{"a\\u0000":1}', "a name holds"),
        (b'["x","\\ud800"]', "1 holds half of a surrogate pair"),
        (b'"\\udc00"', "the text holds half"),
        (b'{"a":1,"a":2}', "same name twice"),
        (b"18446744073709551616", "beyond 64 bits"),
        (b"-9223372036854775809", "beyond 64 bits"),
        (b"1" * 1_000, "beyond 64 bits"),
        (b"1e999", "too large"),
        (b"-1e999", "too large"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"0.12345678901234567890123", "more digits"),
        (b"1." + b"0" * 100, "more digits"),
        (b"1e-400", "more digits"),
        (b"1e-99999999999999999999", "more digits"),
    ],
)
def test_refused_with_a_reason(text: bytes, reason: str) -> None:
    with pytest.raises(JsonRefused, match=reason):
        parse(text, LIMITS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"18446744073709551615", 2**64 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"0.1", 0.1),
        (b"1e2", 100.0),
        (b'"[[[[[["', "[[[[[["),
        (b'"\\"[[[[[["', '"[[[[[['),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b"[[[[1]]]]", [[[[1]]]]),
        (b' {"a": null} ', {"a": None}),
    ],
)
def test_accepted_as_it_is(text: bytes, value: object) -> None:
    assert parse(text, LIMITS) == value


@given(VALUES)
def test_what_json_can_say_is_accepted(value: object) -> None:
    assert parse(orjson.dumps(value), JsonLimits(max_bytes=1_000_000, max_depth=100)) == value


@given(st.binary(max_size=60) | st.text('[]{}",:0123456789.eE-+nulltruefalse\\ud8', max_size=60).map(str.encode))
@example(b"1E400")
@example(b"-0")
@example(b'"\\')
def test_whatever_is_accepted_survives_encoding(text: bytes) -> None:
    try:
        value = parse(text, LIMITS)
    except JsonRefused:
        return
    again = orjson.loads(orjson.dumps(value))
    assert again == value
    assert type(again) is type(value)
