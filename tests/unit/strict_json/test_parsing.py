"""What is accepted can be kept exactly; everything else is refused with a reason and a place."""

import contextlib
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calltag.core.strict_json import (
    JsonLimits,
    JsonRefused,
    NotJson,
    Structure,
    TextTooLarge,
    TooDeep,
    TooManyValues,
    ValueNotKept,
    parse,
)
from fuzz.target import depth_of
from parts.work import lines_run

LIMITS = JsonLimits(max_bytes=2_000, max_depth=4)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
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
        (b'{"u":1e-310}', ValueNotKept, "u is a number too small for a 64-bit float"),
        (b'{"u":[1e999,1e999],"v":1e999}', ValueNotKept, "u[0] is a number too large for a 64-bit float"),
        (
            b'{"u":1e999,"u":1}',
            ValueNotKept,
            'the text has the same name twice ("u"), and one of its values would be lost',
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


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"[1,2,3,4]", True),
        (b"[1,2,3,4,5]", False),
        (b'{"a":1,"b":[2,3]}', True),
        (b'{"a":1,"b":[2,3],"c":4}', False),
        (b"[[],[]]", True),
        (b"[[1],[2]]", True),
        (b"[{},1]", True),
        (b"[{},[],1]", False),
        (b'["[,[,[,[","{,{,{,\\\\",",\\",,,"]', True),
        (b'"\\\\\\",,,,,,,,"', True),
    ],
)
def test_values_are_counted_on_all_levels(text: bytes, kept: bool) -> None:
    limits = JsonLimits(max_values=4)
    if kept:
        assert parse(text, limits) == orjson.loads(text)
        return
    with pytest.raises(TooManyValues) as refused:
        parse(text, limits)
    assert str(refused.value) == "the text has more than 4 values"


@given(VALUES)
def test_the_measured_structure_is_that_of_the_value(value: object) -> None:
    structure = Structure.of(orjson.dumps(value))
    assert structure.values == sum(weights(value))
    depth = depth_of(value)
    assert depth == 0 or structure.is_deeper_than(depth - 1)
    assert not structure.is_deeper_than(depth)


def weights(value: object) -> Iterator[int]:
    """What counts in a list or object, on all levels."""
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict | list) and not value:
        yield 1
    for member in members:
        yield 1
        yield from weights(member)


@pytest.mark.parametrize("text", [b'{"a":"x"}', b"[1]", b"1"])
def test_a_byte_order_mark_is_skipped(text: bytes) -> None:
    assert parse(b"\xef\xbb\xbf" + text, LIMITS) == orjson.loads(text)


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf1", b"1\xef\xbb\xbf"])
def test_a_byte_order_mark_elsewhere_is_no_json(text: bytes) -> None:
    with pytest.raises(NotJson):
        parse(text, LIMITS)


@pytest.mark.parametrize("text", [b"1" * 1_000, b"[" * 1_999, b'{"a":' * 399, b"]" * 1_999 + b"["])
def test_refused_without_a_crash(text: bytes) -> None:
    with pytest.raises(JsonRefused):
        parse(text, LIMITS)


def test_the_place_is_an_attribute() -> None:
    with pytest.raises(ValueNotKept) as refused:
        parse(b'{"userData":{"Account":["x",1e999]}}', LIMITS)
    assert refused.value.path == "userData.Account[1]"


def body_of(item: bytes, most: int = 262_144) -> bytes:
    """A body of the largest size whose user data has this value again and again."""
    head, tail = b'{"operationName":"AttachUserData","userData":{"k":[', b',"\\ud83d\\ude00"]}}'
    return head + b",".join([item] * ((most - len(head) - len(tail)) // (len(item) + 1))) + tail


@pytest.mark.parametrize(
    "text",
    [
        *(
            body_of(item)
            for item in (b"[]", b"{}", b"1", b"1.1", b"1e-310", b'""', b'"\\ud83d\\ude00"', b"[[[[[[]]]]]]")
        ),
        *(
            body_of(item)
            for item in (b"12345678901234", b"1.2345678901234567", b'{"k":1,"k":1}', b'{"a":{"b":{"c":1}}}')
        ),
        body_of(b"[]", 60_000),
        body_of(b"1e-310", 140_000),
        body_of(b'{"k":1,"k":1}', 92_000),
        b"[" * 262_144,
        b"]" * 262_144,
        b"[]" * 131_072,
        b'"' * 262_144,
        b'"' + b"\\u0041" * 43_000 + b'"',
        b"{" + b",".join(b'"%d":1' % number for number in range(20_000)) + b',"0":1}',
        b"1." + b"7" * 262_000,
    ],
    ids=lambda text: f"{text[51:70].decode()} {len(text)}",
)
def test_work_is_in_proportion_to_values_and_not_to_bytes(text: bytes) -> None:
    limits = JsonLimits()
    assert len(text) <= limits.max_bytes

    def parsed() -> None:
        with contextlib.suppress(JsonRefused):
            parse(text, limits)

    assert lines_run(parsed) <= 16 * limits.max_values


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
