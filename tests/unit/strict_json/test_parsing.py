"""What is accepted can be kept exactly; everything else is refused with a reason and a place."""

import contextlib
import time

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calltag.core.strict_json import JsonLimits, JsonRefused, NotJson, TextTooLarge, TooDeep, ValueNotKept, parse

LIMITS = JsonLimits(max_bytes=2_000, max_depth=4)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner), max_leaves=20)
FRAGMENTS = st.lists(
    st.sampled_from(
        ["[", "]", "{", "}", '"', ":", ",", "\\", "\\u0000", "\\ud800", "a", "1", "-", ".", "e", "9" * 20, "null"]
    ),
    max_size=30,
).map(lambda parts: "".join(parts).encode())


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (b"", NotJson, "the text is not JSON: Expecting value (line 1, column 1)"),
        (b'{\n"a":', NotJson, "the text is not JSON: Expecting value (line 2, column 5)"),
        (b'{"a":1}x', NotJson, "the text is not JSON: Extra data (line 1, column 8)"),
        (b"\xff", NotJson, "the text is not UTF-8 (byte 0)"),
        (b"NaN", NotJson, "the text is not JSON: NaN is no JSON value"),
        (b"[-Infinity]", NotJson, "the text is not JSON: -Infinity is no JSON value"),
        (b'"' + b"x" * 2_000 + b'"', TextTooLarge, "the text is larger than 2000 bytes"),
        (b"[[[[[1]]]]]", TooDeep, "the text is nested more than 4 deep"),
        (b'{"a\\"[":[[[[', TooDeep, "the text is nested more than 4 deep"),
        (b'{"userData":{"Account":"\\u0000"}}', ValueNotKept, "userData.Account holds the character U+0000"),
        (b'{"userData":{"a\\u0000":1}}', ValueNotKept, "userData has a name that holds the character U+0000"),
        (b'{"\\ud800":1}', ValueNotKept, "the text has a name that holds half of a surrogate pair"),
        (b'["x","\\ud800"]', ValueNotKept, "[1] holds half of a surrogate pair"),
        (b'{"a b":["\\udc00"]}', ValueNotKept, '["a b"][0] holds half of a surrogate pair'),
        (b'{"' + b"n" * 70 + b'":1e999}', ValueNotKept, f'["{"n" * 64}..."] is a number too large for a 64-bit float'),
        (
            b'{"u":{"a":1,"b":3,"a":2}}',
            ValueNotKept,
            'u has the same name twice ("a"), and one of its values would be lost',
        ),
        (
            b'{"u":18446744073709551616}',
            ValueNotKept,
            "u is a number beyond 64 bits (-9223372036854775808 to 18446744073709551615)",
        ),
        (
            b"[-9223372036854775809]",
            ValueNotKept,
            "[0] is a number beyond 64 bits (-9223372036854775808 to 18446744073709551615)",
        ),
        (b'{"u":-1e999}', ValueNotKept, "u is a number too large for a 64-bit float"),
        (
            b'{"u":0.12345678901234567890123}',
            ValueNotKept,
            "u is a number with more digits than a 64-bit float can keep",
        ),
        (b'{"u":1e-400}', ValueNotKept, "u is a number with more digits than a 64-bit float can keep"),
        (
            b'{"u":1e-99999999999999999999}',
            ValueNotKept,
            "u is a number with more digits than a 64-bit float can keep",
        ),
        (b'{"u":1.' + b"0" * 100 + b"}", ValueNotKept, "u is a number written with more than 64 characters"),
    ],
)
def test_refused_with_reason_and_place(text: bytes, kind: type[JsonRefused], message: str) -> None:
    with pytest.raises(JsonRefused) as refused:
        parse(text, LIMITS)
    assert str(refused.value) == message
    assert type(refused.value) is kind


@pytest.mark.parametrize("text", [b"1" * 1_000, b"[" * 1_999, b'{"a":' * 399, b"]" * 1_999 + b"["])
def test_refused_without_a_crash(text: bytes) -> None:
    with pytest.raises(JsonRefused):
        parse(text, LIMITS)


def test_the_place_is_an_attribute() -> None:
    with pytest.raises(ValueNotKept) as refused:
        parse(b'{"userData":{"Account":["x",1e999]}}', LIMITS)
    assert refused.value.path == "userData.Account[1]"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'"' + b"\\u0041" * 40_000 + b'"',
        b'"' * 200_000,
        b"{" + b",".join(b'"%d":1' % number for number in range(20_000)) + b',"0":1}',
        b"1." + b"7" * 200_000,
    ],
    ids=["brackets", "escapes", "quotes", "many names", "one number"],
)
def test_time_stays_in_proportion_to_size(text: bytes) -> None:
    began = time.process_time()
    with contextlib.suppress(JsonRefused):
        parse(text, JsonLimits(max_bytes=262_144))
    assert time.process_time() - began < 2


@pytest.mark.parametrize("depth", [0, 251])
def test_a_depth_that_cannot_be_kept_is_no_limit(depth: int) -> None:
    with pytest.raises(ValueError, match="max_depth"):
        JsonLimits(max_depth=depth)


def test_the_deepest_text_is_kept() -> None:
    limits = JsonLimits(max_depth=250)
    value = parse(b"[" * 250 + b"]" * 250, limits)
    assert orjson.loads(orjson.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"18446744073709551615", 2**64 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"0.1", 0.1),
        (b"1e2", 100.0),
        (b"0.10", 0.1),
        (b'"[[[[[["', "[[[[[["),
        (b'"\\"[[[[[["', '"[[[[[['),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b"[[[[1]]]]", [[[[1]]]]),
        (b' {"a": null} ', {"a": None}),
        ('{"é": "ü"}'.encode(), {"é": "ü"}),
    ],
)
def test_accepted_as_it_is(text: bytes, value: object) -> None:
    got = parse(text, LIMITS)
    assert got == value
    assert type(got) is type(value)


@given(VALUES)
def test_what_json_can_say_is_accepted(value: object) -> None:
    assert parse(orjson.dumps(value), JsonLimits(max_bytes=1_000_000, max_depth=100)) == value


@given(
    st.binary(max_size=60)
    | st.text('[]{}",:0123456789.eE-+nulltruefalse\\ud8', max_size=60).map(str.encode)
    | FRAGMENTS
)
@example(b"1E400")
@example(b"-0")
@example(b"-0.0")
@example(b'"\\')
@example(b"0e-99999999999999999999")
def test_whatever_is_accepted_survives_encoding(text: bytes) -> None:
    try:
        value = parse(text, LIMITS)
    except JsonRefused as refused:
        orjson.dumps(str(refused))
        return
    assert_same(orjson.loads(orjson.dumps(value)), value)


def assert_same(again: object, value: object) -> None:
    """Equal in value and in type, all the way down."""
    assert type(again) is type(value)
    assert repr(again) == repr(value)
