"""Headers that the gateway reads: Idempotency-Key and Prefer."""

import contextlib

from calltag.core.domain.ids import UserId
from calltag.gateway.errors import OutOfRange
from calltag.gateway.idempotency import idempotent_request
from calltag.gateway.requests import wait_s
from fuzz.target import Target

MOST_S = 10
WORDS = [
    b"wait", b"=", b'"', b"\\", b",", b";", b" ", b"\t", b"respond-async", b"10", b"0", b"99999999999", b"\n", b"-1",
    b"Wait", b'wait="1', b'"\\\\"', b"\xe4",
]  # fmt: skip
SEEDS = [
    b"wait=5",
    b'respond-async, wait="7"; x=y',
    b'foo="a\\", wait=1',
    b"wait=5\nwait=6",
    b"key-1",
    b"x" * 256,
    b'"' * 500,
    b"=" * 500,
]


def one_input(data: bytes) -> None:
    """Seconds within the bound, a key's digest, or OutOfRange with a message that can be shown."""
    text = data.decode("latin-1")
    try:
        seconds = wait_s(text.split("\n"), MOST_S)
        assert seconds is None or 0 <= seconds <= MOST_S
        assert seconds is None or "wait" in text.lower().replace("\\", "")
    except OutOfRange as error:
        assert len(error.message) < 200
    with contextlib.suppress(OutOfRange):
        request = idempotent_request(UserId("alice"), text, "POST", "/api/v2/me", data)
        assert 0 < len(text) <= 255
        assert (len(request.digest), len(request.operation_id)) == (32, 34)
        assert request == idempotent_request(UserId("alice"), text, "POST", "/api/v2/me", data)
        other = idempotent_request(UserId("alice"), text, "POST", "/api/v2/me", data + b" ")
        assert (other.digest, other.fingerprint != request.fingerprint) == (request.digest, True)


TARGET = Target("headers", one_input, SEEDS, WORDS)
