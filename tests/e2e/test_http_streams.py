"""Properties of random streams: as many answers as requests, in order, and never more, whatever comes."""

import asyncio

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from parts.endpoints import Endpoint
from parts.request_checks import check_any, check_mutated, check_valid
from parts.request_streams import SIZES, Stream, mutated, streams

NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""A wrong answer is often one that does not come: to shrink the stream would take minutes."""
BOTH = pytest.mark.parametrize("endpoint", ["gateway", "notifier"], indirect=True)


@BOTH
@settings(max_examples=100, phases=NO_SHRINKING)
@given(stream=streams(), sizes=SIZES)
def test_valid_requests_are_answered_each_once_and_in_order(
    endpoint: Endpoint, stream: Stream, sizes: list[int]
) -> None:
    asyncio.run(check_valid(endpoint, stream, sizes))


@BOTH
@settings(max_examples=100, phases=NO_SHRINKING)
@given(raw=mutated(), sizes=SIZES)
def test_malformed_streams_get_no_answer_too_many(endpoint: Endpoint, raw: bytes, sizes: list[int]) -> None:
    asyncio.run(check_mutated(endpoint, raw, sizes))


@BOTH
@settings(max_examples=50, phases=NO_SHRINKING)
@given(data=st.binary(max_size=2_000), sizes=SIZES)
def test_any_bytes_are_refused_or_waited_for(endpoint: Endpoint, data: bytes, sizes: list[int]) -> None:
    asyncio.run(check_any(endpoint, data, sizes))
