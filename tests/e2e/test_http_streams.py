"""Properties of random streams: as many answers as requests, in order, and never more, whatever comes."""

import asyncio

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from parts.endpoints import Endpoint
from parts.raw_http import Answer, connection, get
from parts.request_streams import END, SIZES, Stream, filled, mutated, packets, streams

WITHIN_S = 15.0
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""A wrong answer is often one that does not come: to shrink the stream would take minutes."""
BOTH = pytest.mark.parametrize("endpoint", ["gateway", "notifier"], indirect=True)


async def answers_to(endpoint: Endpoint, pieces: list[bytes], count: int) -> tuple[list[Answer], bool]:
    """Wait for that many answers, or the close; return all there are, and whether it was the close."""
    async with connection(endpoint.address) as opened:
        await opened.send(pieces)
        return await opened.final(count, WITHIN_S), opened.closed


@BOTH
@settings(max_examples=100, phases=NO_SHRINKING)
@given(stream=streams(), sizes=SIZES)
def test_valid_requests_are_answered_each_once_and_in_order(
    endpoint: Endpoint, stream: Stream, sizes: list[int]
) -> None:
    data = filled(b"".join(stream.requests) + get("last", "Connection: close"), endpoint)
    # One more than there should be: the close is waited for.
    found, closed = asyncio.run(answers_to(endpoint, packets(data, sizes), len(stream.ids) + 2))
    wanted = [(each, endpoint.status if each in stream.read else 404) for each in (*stream.ids, "last")]
    assert [(each.id, each.status) for each in found] == wanted, f"answers: {', '.join(map(str, found))}\nto: {data!r}"
    assert closed, "the connection was not closed after Connection: close"


@BOTH
@settings(max_examples=100, phases=NO_SHRINKING)
@given(raw=mutated(), sizes=SIZES)
def test_malformed_streams_get_no_answer_too_many(endpoint: Endpoint, raw: bytes, sizes: list[int]) -> None:
    data = filled(raw, endpoint) + END
    requests = data.count(b" HTTP/1.1\r\n")
    found, _ = asyncio.run(answers_to(endpoint, packets(data, sizes), requests + 2))
    told = f"answers: {', '.join(map(str, found))}\nto: {data[: -len(END)]!r}"
    refused = [number for number, each in enumerate(found) if each.is_refusal]
    assert len(found) - len(refused) <= requests, f"more answers than requests; {told}"
    assert refused in ([], [len(found) - 1]), f"a request was answered behind a refused one; {told}"
    assert not [each for each in found if each.status >= 500 and each.status not in {501, 505}], told


@BOTH
@settings(max_examples=50, phases=NO_SHRINKING)
@given(data=st.binary(max_size=2_000), sizes=SIZES)
def test_any_bytes_are_refused_or_waited_for(endpoint: Endpoint, data: bytes, sizes: list[int]) -> None:
    found, _ = asyncio.run(answers_to(endpoint, packets(data + b"\r\n\r\n" + END, sizes), 2))
    assert [each.status for each in found] in ([], [400], [414], [431], [501], [505]), ", ".join(map(str, found))
    alive, _ = asyncio.run(answers_to(endpoint, [get("alive")], 1))
    assert [each.id for each in alive] == ["alive"], "the server does not answer any more"
