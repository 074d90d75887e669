"""Forms with Bayeux messages: a form says what the JSON in it says, or is refused."""

import contextlib
from urllib.parse import quote_from_bytes

from calltag.core.bayeux.messages import BayeuxLimits, CodecError, decode, messages_of_form
from fuzz.target import Target
from fuzz.targets import codec

LIMITS = BayeuxLimits(max_body_bytes=2**20)
WORDS = [b"message=", b"&", b"=", b"%5B", b"%5D", b"%7B", b"%7D", b"%22", b"%", b"%ff", b"%00", b"+", *codec.WORDS]
SEEDS = [
    b"message=%5B%7B%22channel%22%3A%22/meta/connect%22%7D%5D",
    b'message={"channel":"/a"}&message=[{"channel":"/b"}]',
    b"message=&message=+&other=1",
    b"message=%C3%A4&message=%ff",
    *codec.SEEDS,
]


def one_input(data: bytes) -> None:
    """No other error than CodecError, no output larger than the input, and JSON comes through a form unchanged."""
    with contextlib.suppress(CodecError):
        content = messages_of_form(data)
        assert len(content) <= len(data) + 2
        assert content[:1] + content[-1:] == b"[]"
        decode(content, LIMITS)
    with contextlib.suppress(CodecError):
        messages = decode(data, LIMITS)
        written = messages_of_form(b"message=" + quote_from_bytes(data).encode())
        assert repr(decode(written, LIMITS)) == repr(messages)


TARGET = Target("forms", one_input, SEEDS, WORDS)
