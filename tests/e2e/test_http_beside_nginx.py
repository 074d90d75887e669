"""nginx as the reference for request framing: calltag accepts no request that nginx would refuse or cut differently.

The requests that calltag refuses and nginx accepts are listed here with the reasons.
"""

import asyncio
import re

import pytest
from hypothesis import Phase, assume, given, settings

from parts.endpoints import Endpoint
from parts.raw_http import Answer, connection, get
from parts.request_streams import END, filled, mutated
from parts.request_table import ROWS, Row

WITHIN_S = 15.0
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""A wrong answer is often one that does not come: to shrink the stream would take minutes."""
BOTH = pytest.mark.parametrize("endpoint", ["gateway", "notifier"], indirect=True)
BARE_LF = "RFC 9112 2.2: a recipient may take LF alone as the end of a line; a proxy that does not would see one line"
SPACES = "RFC 9112 3: one space each; lenient parsing of the line 'can result in security vulnerabilities'"
TOKEN = "RFC 9110 5.1: a name is a token; nginx drops the field and serves the request"
CONTROL = "RFC 9110 5.5: control characters in values are invalid; a server may keep them"
HOST = "RFC 9112 3.2: 400 for an invalid Host; nginx looks at a part of it only"
FRAMING_BOUND = "RFC 9112 7.1.1, 7.1.2: the total size of extensions and trailers should be limited"
BARE_LF_IN_CHUNKS = "RFC 9112 7.1: lines of chunks end with CRLF"
ALMOST_CLOSE = re.compile(rb"^connection:[^\r\n]*(?:[^\s,:]close|close[^\s,])", re.IGNORECASE | re.MULTILINE)
EMPTY_HOST = re.compile(rb"^host:[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
STRICTER = {
    "the request line ends with LF": BARE_LF,
    "a field ends with LF": BARE_LF,
    "the head ends with LF": BARE_LF,
    "all lines end with LF": BARE_LF,
    "CR at the end of a value": BARE_LF,
    "no version": "RFC 9112 3: HTTP/0.9 is not served",
    "two spaces before the target": SPACES,
    "two spaces before the version": SPACES,
    "a space after the version": SPACES,
    "an unknown method": "RFC 9110 9.1: 501 where the method is not known; nginx leaves that to the application",
    "a version with two digits": "RFC 9112 2.3: one digit on each side of the point",
    "there is no colon": TOKEN,
    "a bracket within a name": TOKEN,
    "a quote within a name": TOKEN,
    "a byte beyond ASCII within a name": TOKEN,
    "a control character within a value": CONTROL,
    "DEL within a value": CONTROL,
    **dict.fromkeys([f"Host is {host}" for host in ("user@a", "a:b", "[::1", "a?b", "a#b", "a\\b")], HOST),
    "fields larger than the head may be": "RFC 6585 5: the limit holds for all fields together",
    "more fields than there may be": "RFC 6585 5: nginx has no limit for the number of fields",
    "LF after a chunk": BARE_LF_IN_CHUNKS,
    "LF after a chunk's size": BARE_LF_IN_CHUNKS,
    "LF after the last chunk": BARE_LF_IN_CHUNKS,
    "LF within an extension": BARE_LF_IN_CHUNKS,
    "a NUL within an extension": "RFC 9112 7.1.1: an extension is made of tokens and quoted strings",
    "an extension larger than a head may be": FRAMING_BOUND,
    "extensions larger than a head may be": FRAMING_BOUND,
    "a chunk's size of endless zeros": FRAMING_BOUND,
    "a trailer larger than a head may be": FRAMING_BOUND,
    "trailers larger than a head may be": FRAMING_BOUND,
    "a trailer without a colon": "RFC 9112 7.1.2: trailers are fields; nginx does not parse them",
    "a trailer with a space before its colon": "RFC 9112 5.1; nginx does not parse trailers",
    "a trailer ends with LF": BARE_LF,
    "a trailer with a NUL": "RFC 9110 5.5; nginx does not parse trailers",
}
"""Rows of the table that calltag refuses and nginx accepts."""
MORE_LENIENT = {
    "asterisk-form": "RFC 9112 3.2.4: OPTIONS * is valid; nginx serves no asterisk-form",
}
"""Rows of the table that calltag accepts and nginx refuses."""


async def verdict(endpoint: Endpoint, pieces: list[bytes]) -> list[Answer]:
    """All answers until the close, which the end of the stream brings about."""
    async with connection(endpoint.address) as opened:
        await opened.send(pieces)
        await opened.closes(WITHIN_S)
        return await opened.final(0, 0)


async def both(endpoint: Endpoint, nginx: Endpoint, raw: bytes) -> tuple[list[Answer], list[Answer]]:
    # In one packet: calltag may answer a request that it refuses by its head before a broken body has come.
    ours, theirs = await asyncio.gather(
        verdict(endpoint, [filled(raw, endpoint) + END]),
        verdict(nginx, [filled(raw, nginx) + END]),
    )
    return ours, theirs


def accepted(answers: list[Answer]) -> list[Answer]:
    """The answers of the application, which are those to requests."""
    return [each for each in answers if not each.is_refusal]


@BOTH
@pytest.mark.parametrize("row", [each for each in ROWS if not each.or_refused], ids=str)
async def test_calltag_and_nginx_agree_on_each_row(endpoint: Endpoint, nginx: Endpoint, row: Row) -> None:
    async def seen(judge: Endpoint) -> list[Answer]:
        return await verdict(judge, [judge.filled(get("first") + row.raw + get("behind")) + END])

    ours, theirs = await asyncio.gather(seen(endpoint), seen(nginx))
    told = f"{row.name} (RFC {row.rfc}): calltag {', '.join(map(str, ours))}; nginx {', '.join(map(str, theirs))}"
    if row.name in STRICTER:
        assert len(accepted(ours)) == 1, f"calltag is to refuse it ({STRICTER[row.name]}); {told}"
    elif row.name in MORE_LENIENT:
        assert len(accepted(ours)) == 3, f"calltag is to accept it ({MORE_LENIENT[row.name]}); {told}"
    else:
        assert len(accepted(ours)) == len(accepted(theirs)), told


@BOTH
@settings(max_examples=100, phases=NO_SHRINKING)
@given(raw=mutated())
def test_calltag_accepts_no_mutated_request_that_nginx_refuses(endpoint: Endpoint, nginx: Endpoint, raw: bytes) -> None:
    # Host may be empty (RFC 9112, 3.2), which nginx refuses; and it takes any option with these letters for "close".
    assume(not EMPTY_HOST.search(raw) and not ALMOST_CLOSE.search(raw))
    ours, theirs = asyncio.run(both(endpoint, nginx, raw))
    # A request that closes the connection ends the stream for both.
    assume(theirs)
    told = f"calltag {', '.join(map(str, ours))}; nginx {', '.join(map(str, theirs))}; {filled(raw, endpoint)!r}"
    assert len(accepted(ours)) <= len(accepted(theirs)), told
