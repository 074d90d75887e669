"""Sends the requests of a table or a stream to an endpoint, and compares the answers."""

import asyncio

from parts.endpoints import Endpoint
from parts.raw_http import Answer, Connection, connection, cut, get
from parts.request_streams import END, Stream, filled, packets
from parts.request_table import Refused, Row, Served

WITHIN_S = 15.0
"""Long enough for a busy machine; a right answer takes milliseconds."""


async def _conversation(opened: Connection, row: Row, wanted: list[Served | Refused]) -> list[Answer]:
    """Return all answers, with the one to a last request where the connection should still be open."""
    await opened.final(len(wanted), WITHIN_S)
    if not row.closes and not opened.closed:
        await opened.send([get("last", "Connection: close")])
    if not await opened.closes(WITHIN_S):
        left_open = Answer(997, {}, b"and then it was left open, without an answer")
        return [*await opened.final(len(wanted) + 1, 0), left_open]
    return await opened.final(len(wanted) + 1, 0)


def _judge(row: Row, endpoint: Endpoint, way: str, wanted: list[Served | Refused], got: list[Answer]) -> str:
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


async def _difference(
    row: Row, endpoint: Endpoint, way: str, pieces: list[bytes], wanted: list[Served | Refused]
) -> str:
    async with connection(endpoint.address) as opened:
        await opened.send(pieces)
        return _judge(row, endpoint, way, wanted, await _conversation(opened, row, wanted))


async def differences(row: Row, endpoint: Endpoint) -> list[str]:
    """Return the differences for each way of sending the row."""
    raw = endpoint.filled(row.raw)
    first, between = get("first"), [Served("first"), *row.answers]
    behind = get("behind")
    after: list[Served | Refused] = [*between] if row.closes else [*between, Served("behind")]
    found = await asyncio.gather(
        _difference(row, endpoint, "in one packet", [raw], list(row.answers)),
        _difference(row, endpoint, "byte by byte", cut(raw, 1 if len(raw) < 3_000 else 997), list(row.answers)),
        _difference(row, endpoint, "between two good requests", [first + raw + behind], after),
    )
    return [each for each in found if each]


async def answers_to(endpoint: Endpoint, pieces: list[bytes], count: int) -> tuple[list[Answer], bool]:
    """Wait for that many answers, or the close; return all there are, and whether it was the close."""
    async with connection(endpoint.address) as opened:
        await opened.send(pieces)
        return await opened.final(count, WITHIN_S), opened.closed


async def check_valid(endpoint: Endpoint, stream: Stream, sizes: list[int]) -> None:
    """Each request of the stream is answered once, and in order."""
    data = filled(b"".join(stream.requests) + get("last", "Connection: close"), endpoint)
    # One more than there should be: the close is waited for.
    found, closed = await answers_to(endpoint, packets(data, sizes), len(stream.ids) + 2)
    wanted = [(each, endpoint.status if each in stream.read else 404) for each in (*stream.ids, "last")]
    assert [(each.id, each.status) for each in found] == wanted, f"answers: {', '.join(map(str, found))}\nto: {data!r}"
    assert closed, "the connection was not closed after Connection: close"


async def check_mutated(endpoint: Endpoint, raw: bytes, sizes: list[int]) -> None:
    """There is no answer too many, and none behind a refused request."""
    data = filled(raw, endpoint) + END
    requests = data.count(b" HTTP/1.1\r\n")
    found, _ = await answers_to(endpoint, packets(data, sizes), requests + 2)
    told = f"answers: {', '.join(map(str, found))}\nto: {data[: -len(END)]!r}"
    refused = [number for number, each in enumerate(found) if each.is_refusal]
    assert len(found) - len(refused) <= requests, f"more answers than requests; {told}"
    assert refused in ([], [len(found) - 1]), f"a request was answered behind a refused one; {told}"
    assert not [each for each in found if each.status >= 500 and each.status not in {501, 505}], told


async def check_any(endpoint: Endpoint, data: bytes, sizes: list[int]) -> None:
    """The bytes are refused or waited for, and the server goes on."""
    found, _ = await answers_to(endpoint, packets(data + b"\r\n\r\n" + END, sizes), 2)
    assert [each.status for each in found] in ([], [400], [414], [431], [501], [505]), ", ".join(map(str, found))
    alive, _ = await answers_to(endpoint, [get("alive")], 1)
    assert [each.id for each in alive] == ["alive"], "the server does not answer any more"
