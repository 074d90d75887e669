"""Bayeux requests: bytes are messages within the limits, or a CodecError."""

import contextlib

import orjson

from calltag.core.bayeux.messages import BayeuxLimits, CodecError, decode, encode
from fuzz.target import Target, depth_of

LIMITS = BayeuxLimits(max_body_bytes=2_048, max_messages=8, max_depth=6)
WORDS = [
    b"[", b"]", b"{", b"}", b'"', b":", b",", b"\\", b'\\"', b"\\u0000", b"\\ud800", b"null", b"true", b"-1", b"1e999",
    b"18446744073709551616", b'"channel":', b'"/meta/connect"', b"[[[[[[[", b"{}", b"\xff", b"\xef\xbb\xbf",
]  # fmt: skip
SEEDS = [
    b'[{"channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["long-polling"]}]',
    b'{"channel":"/meta/connect","clientId":"c","connectionType":"long-polling","advice":{"timeout":0}}',
    b'[{"data":{"a":[[["]]]]]"]]]}}]',
    b"[[[[[[[[1]]]]]]]]",
    b"[]",
    b"{}" * 3,
]


def one_input(data: bytes) -> None:
    """What is decoded is within the limits and can be encoded; what is refused is too large, too deep or no JSON."""
    known: object = None
    with contextlib.suppress(orjson.JSONDecodeError):
        known = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    try:
        messages = decode(data, LIMITS)
    except CodecError as error:
        assert len(str(error)) < 300
        messages = known if isinstance(known, list) else [known]
        over = len(data) > LIMITS.max_body_bytes or len(messages) > LIMITS.max_messages
        assert known is None or over or depth_of(known) > LIMITS.max_depth, "refused without need"
        return
    assert len(data) <= LIMITS.max_body_bytes
    assert len(messages) <= LIMITS.max_messages
    assert depth_of(list(messages)) <= LIMITS.max_depth + 1
    again = decode(encode([orjson.dumps(each) for each in messages], []), BayeuxLimits(max_body_bytes=2**20))
    assert repr(again) == repr(list(messages))


TARGET = Target("codec", one_input, SEEDS, WORDS)
