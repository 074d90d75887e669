"""`Prefer: wait=N`, as RFC 7240 writes it."""

import pytest

from calltag.gateway.errors import OutOfRange
from calltag.gateway.requests import wait_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["wait=3"], 3),
        (["WAIT = 3"], 3),
        (['wait="3"'], 3),
        (["wait=99"], 10),
        (["respond-async, wait=3"], 3),
        (["respond-async", "wait=3"], 3),
        (["wait=3; of=us, wait=4"], 3),
        (["wait=3;of=us"], 3),
        (["foo=bar; wait=3"], None),
        (["waiting=3, await=4"], None),
        (['foo="a, wait=3"'], None),
        (['foo="a, wait=3'], None),
        (['foo="a\\", wait=3"'], None),
        (['foo="a\\", wait=3", wait=4'], 4),
        (['foo="a\\\\", wait=3'], 3),
        (['foo="a" b, wait=3'], 3),
        (["=, ;, wait=3"], 3),
    ],
)
def test_the_seconds_to_wait(headers: list[str], seconds: int | None) -> None:
    assert wait_s(headers, 10) == seconds


@pytest.mark.parametrize(
    "header", ["wait", "wait=", "wait=soon", "wait=-1", "wait=1.5", 'wait="1 2"', "wait=1234567890"]
)
def test_what_is_no_number_of_seconds_is_refused(header: str) -> None:
    with pytest.raises(OutOfRange, match="Prefer: wait must be a whole number of seconds"):
        wait_s([header], 10)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "header", ['"' * 60_001, '"\\' * 30_000, "a" + " " * 60_000 + "b", "a=" + " " * 60_000 + "\\", "a" * 60_000 + "="]
)
def test_any_header_is_read_in_linear_time(header: str) -> None:
    assert wait_s([header], 10) is None
