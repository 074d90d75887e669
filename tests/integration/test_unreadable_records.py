"""A call of which the record cannot be read breaks no other."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from calltag.core.domain.ids import UserId
from calltag.core.store.calls import RedisCallBlocks
from parts.eventually import eventually
from parts.in_process import InProcess, ended, in_process, started
from parts.store_commands import library


async def spoil(gateway: InProcess, call: str) -> None:
    """As a version would write it that knows more types of calls."""
    connection, name = library(gateway.backends.client), gateway.keys(call).state
    doc = cast("bytes", await connection.hget(name, "doc"))
    assert b'"type":"Unknown"' in doc
    await connection.hset(name, "doc", doc.replace(b'"type":"Unknown"', b'"type":"Telepathic"'))


async def test_it_is_refused_when_it_is_read_and_left_out_of_the_list(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000"), started("D", "15000"))
    await spoil(gateway, "C")
    with capture_logs() as logs:
        mine = (await gateway.request("alice", "GET", "/me/calls?fields=id")).json()
    assert mine == {"statusCode": 0, "calls": [{"id": "D"}]}
    [told] = [each for each in logs if each["log_level"] == "error"]
    assert (told["event"], "call:C" in told["reason"]) == ("state_unreadable", True)
    for method, body in (("GET", None), ("POST", {"operationName": "Hold"})):
        answer = await gateway.request("alice", method, "/me/calls/C", body)
        assert (answer.status_code, answer.json()["statusCode"]) == (500, 4)
        assert "call:C is not of a form that this version reads" in answer.json()["statusMessage"]
        assert "Telepathic" not in answer.text


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[InProcess]:
    """Parks what fails at once."""
    async with in_process(tmp_path, worker={"park_after_s": 0.01}) as made:
        yield made


async def test_its_operations_are_parked_and_all_others_go_on(impatient: InProcess) -> None:
    gateway = impatient
    async with gateway.working():
        await gateway.send_facts(started("C", "15000", userData={"a": 1}), started("D", "15000"))
    connection, names = library(gateway.backends.client), gateway.keys("C")
    await connection.hset(names.data, "a", b"odd")
    for call in ("C", "D"):
        accepted = await gateway.request("alice", "POST", f"/me/calls/{call}", {"operationName": "Hold"})
        assert accepted.json() == {"statusCode": 0}
    known = await connection.hlen(names.done)
    async with gateway.working():
        assert (await gateway.operate("alice", "D", "Retrieve"))["statusCode"] == 0
        await eventually(lambda: len(gateway.broker.parked) == 1)
        refused = await gateway.operate("alice", "C", "Hold")
        assert (refused["statusCode"], "is parked" in refused["statusMessage"]) == (4, True)
        answer = await gateway.send_facts(started("E", "15000"), ended("C"), ended("D"))
        assert (answer.status_code, "event 1 (ended-C): 4" in answer.json()["statusMessage"]) == (207, True)
        await eventually(lambda: len(gateway.broker.parked) == 2)
    first, behind = (each.parking for each in gateway.broker.parked)
    assert (first.reason, first.key, first.exception) == ("failed_repeatedly", "call:C", "StateUnreadable")
    assert (behind.reason, behind.key) == ("behind_a_parked_one", "call:C")
    assert behind.after == gateway.broker.parked[0].message_id
    assert await connection.hlen(names.done) == known
    kept = await connection.xrange(gateway.backends.keys.stream_of(UserId("alice")))
    events = [fields[b"e"] for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", kept)]
    refusals = [event for event in events if b'"kind":"refused"' in event]
    assert len(refusals) == 2
    assert all(b'"code":4' in each and b'"Hold"' in each for each in refusals)
    await connection.hset(names.data, "a", b"[1]")
    shown = (await gateway.request("alice", "GET", "/me/calls/C")).json()["call"]
    told = shown["ext"]["calltag"]["parked"]
    assert (told["operationId"], told["reason"]) == (behind.after, "failed_repeatedly")
    assert "ext" not in (await gateway.request("alice", "GET", "/me/calls/D")).json()["call"]


async def test_an_embedded_instance_forgets_the_marks_of_what_is_gone_with_its_bus(impatient: InProcess) -> None:
    marks = RedisCallBlocks(impatient.backends.client, impatient.backends.keys, 1)
    async with impatient.working():
        await impatient.send_facts(started("C", "15000", userData={"a": 1}))
    await library(impatient.backends.client).hset(impatient.keys("C").data, "a", b"odd")
    async with impatient.working():
        await impatient.request("alice", "POST", "/me/calls/C", {"operationName": "Hold"})
        await eventually(lambda: len(impatient.broker.parked) == 1)
    assert list(await marks.all()) == ["call:C"]
    assert await marks.forget() == 1
    assert await marks.all() == {}
