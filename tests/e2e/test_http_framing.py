"""Request framing: each row of the table is sent in one packet, byte by byte, and between two good requests.

A server and a proxy in front of it that disagree on framing allow request smuggling.
"""

import asyncio

import pytest

from parts.endpoints import Endpoint
from parts.raw_http import Answer, Connection, connection, cut, get
from parts.request_table import ROWS, Refused, Row, Served

WITHIN_S = 15.0
"""Long enough for a busy machine; a right answer takes milliseconds."""


async def conversation(opened: Connection, row: Row, wanted: list[Served | Refused]) -> list[Answer]:
    """Return all answers, with the one to a last request where the connection should still be open."""
    await opened.final(len(wanted), WITHIN_S)
    if not row.closes and not opened.closed:
        await opened.send([get("last", "Connection: close")])
    if not await opened.closes(WITHIN_S):
        left_open = Answer(997, {}, b"and then it was left open, without an answer")
        return [*await opened.final(len(wanted) + 1, 0), left_open]
    return await opened.final(len(wanted) + 1, 0)


def judge(row: Row, endpoint: Endpoint, way: str, wanted: list[Served | Refused], got: list[Answer]) -> str:
    """Return the difference from the expected answers, or nothing."""
    expected: list[Served | Refused] = [*wanted] if row.closes else [*wanted, Served("last")]
    possible = [expected]
    if row.or_refused:
        possible.append([*(each for each in wanted if each == Served("first")), Refused()])
    for each in possible:
        if len(each) == len(got) and all(one.fits(answer, endpoint) for one, answer in zip(each, got, strict=True)):
            return ""
    return f"{way}: wanted {', '.join(map(str, expected))}{' and the close' if row.closes else ''}; got " + (
        ", ".join(map(str, got)) or "nothing but the close"
    )


async def difference(
    row: Row, endpoint: Endpoint, way: str, pieces: list[bytes], wanted: list[Served | Refused]
) -> str:
    async with connection(endpoint.address) as opened:
        await opened.send(pieces)
        return judge(row, endpoint, way, wanted, await conversation(opened, row, wanted))


async def differences(row: Row, endpoint: Endpoint) -> list[str]:
    """Return the differences for each way of sending the row."""
    raw = endpoint.filled(row.raw)
    first, between = get("first"), [Served("first"), *row.answers]
    behind = get("behind")
    after: list[Served | Refused] = [*between] if row.closes else [*between, Served("behind")]
    found = await asyncio.gather(
        difference(row, endpoint, "in one packet", [raw], list(row.answers)),
        difference(row, endpoint, "byte by byte", cut(raw, 1 if len(raw) < 3_000 else 997), list(row.answers)),
        difference(row, endpoint, "between two good requests", [first + raw + behind], after),
    )
    return [each for each in found if each]


@pytest.mark.parametrize("endpoint", ["gateway", "notifier"], indirect=True)
@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_each_request_is_answered_once_and_malformed_ones_are_refused(row: Row, endpoint: Endpoint) -> None:
    if found := await differences(row, endpoint):
        pytest.fail(f"{row.name} (RFC {row.rfc}):\n" + "\n".join(found), pytrace=False)


@pytest.mark.parametrize("endpoint", ["tls"], indirect=True)
@pytest.mark.parametrize("row", ROWS[::6], ids=str)
async def test_the_table_holds_over_tls(row: Row, endpoint: Endpoint) -> None:
    if found := await differences(row, endpoint):
        pytest.fail(f"{row.name} (RFC {row.rfc}):\n" + "\n".join(found), pytrace=False)
