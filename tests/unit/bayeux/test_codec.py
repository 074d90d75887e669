"""Bytes to messages and back, whatever the bytes are."""

import orjson
import pytest

from calltag.core.bayeux.channels import is_meta, is_name, is_pattern, is_service, matches
from calltag.core.bayeux.messages import BayeuxLimits, CodecError, can_encode, decode, encode, encode_event
from parts.work import lines_run

LIMITS = BayeuxLimits(max_body_bytes=400, max_messages=3, max_depth=5)


def test_one_message_stands_for_an_array() -> None:
    assert decode(b'{"a":1}', LIMITS) == [{"a": 1}]
    assert decode(b'[{"a":1},3]', LIMITS) == [{"a": 1}, 3]


def test_an_empty_array_holds_no_messages() -> None:
    """Faye's clients send one to keep a WebSocket alive."""
    assert decode(b"[]", LIMITS) == []


@pytest.mark.parametrize("text", [b'"[[[[[[[["', b"[[],[],[[[]]]]", b'{"a":"{{{{{{","b":[1]}'])
def test_brackets_that_are_not_nested_too_deep_are_taken(text: bytes) -> None:
    assert decode(text, LIMITS)


@pytest.mark.parametrize(
    ("text", "too_large", "word"),
    [
        (b"", False, "not JSON"),
        (b"[", False, "not JSON"),
        (b"[1,2,3,4]", True, "more than 3 messages"),
        (b"[" * 9 + b"]" * 9, True, "5 deep"),
        (b'"' + b"x" * 400 + b'"', True, "400 bytes"),
    ],
)
def test_what_is_no_request_is_refused(text: bytes, too_large: bool, word: str) -> None:
    with pytest.raises(CodecError, match=word) as refused:
        decode(text, LIMITS)
    assert refused.value.too_large is too_large


@pytest.mark.parametrize("text", [b"{}", b'[{"a":1},3]'])
def test_a_byte_order_mark_is_skipped(text: bytes) -> None:
    assert decode(b"\xef\xbb\xbf" + text, LIMITS) == decode(text, LIMITS)


@pytest.mark.parametrize("text", [b"[]" * 32_000, b"[" * 64_000, b"]" * 64_000, b'"' * 64_000, b'["\\\\"]' * 9_000])
def test_no_text_is_looked_at_byte_by_byte_in_python(text: bytes) -> None:
    def decoded() -> None:
        with pytest.raises(CodecError):
            decode(text, BayeuxLimits())

    assert lines_run(decoded) <= 500


def test_brackets_in_strings_are_no_depth() -> None:
    assert decode(b'["[[[[[[[["]', LIMITS) == ["[[[[[[[["]


def test_events_come_before_replies() -> None:
    event = encode_event("/x", {"a": 1}, {"e": 1})
    assert orjson.loads(encode([event], [{"r": 1}])) == [{"data": {"a": 1}, "channel": "/x", "ext": {"e": 1}}, {"r": 1}]
    assert orjson.loads(encode_event("/x", 1)) == {"data": 1, "channel": "/x"}


@pytest.mark.parametrize(
    ("pattern", "channel", "covered"),
    [
        ("/a/b", "/a/b", True),
        ("/a/b", "/a/c", False),
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/b/c", False),
        ("/a/*", "/b/a", False),
        ("/a/**", "/a/b/c", True),
        ("/a/**", "/a", False),
        ("/**", "/a/b", True),
    ],
)
def test_patterns(pattern: str, channel: str, covered: bool) -> None:
    assert matches(pattern, channel) is covered
    assert is_name(channel)
    assert is_pattern(pattern) is pattern.endswith("*")


@pytest.mark.parametrize("text", ["", "a", "/", "//", "/a/", "/a\n", "/" + "a" * 300, "/a*b"])
def test_what_is_no_channel(text: str) -> None:
    assert not is_name(text)
    assert not is_pattern(text)


def test_service_and_meta_channels_are_told_by_their_beginning() -> None:
    assert [is_meta(each) for each in ("/meta/x", "/meta", "/metal/x")] == [True, False, False]
    assert [is_service(each) for each in ("/service/x", "/service", "/services/x")] == [True, False, False]


@pytest.mark.parametrize("value", [None, 1.5, 2**64 - 1, -(2**63), "ä", {"a": [1]}, float("nan")])
def test_what_json_can_say_can_be_answered(value: object) -> None:
    assert can_encode(value)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", ["\ud800"], {"\ud800": 1}, object()])
def test_what_json_cannot_say_is_told_in_advance(value: object) -> None:
    assert not can_encode(value)
