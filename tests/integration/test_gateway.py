"""The gateway with a worker beside it, without one, and with users that the demo does not have."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from calltag.cli.documents import openapi
from calltag.core.backends import Backends
from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Partition
from parts.eventually import eventually
from parts.in_process import InProcess, ended, in_process, started, with_second_device

BOBS_DEVICE = "7d1f6a52-9c0b-4c62-8c5e-0f3a6b1d2e01"
ALICES_DEVICE = "631608b3-ceb1-472b-ba05-2ae39555b0d1"


async def test_waiting_comes_to_an_end(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000"))
    answer = await gateway.request("alice", "POST", "/me/calls/C", {"operationName": "Hold"}, Prefer="wait=1")
    assert (answer.status_code, answer.json()["statusCode"]) == (202, 9)
    assert "within 1 s" in answer.json()["statusMessage"]
    async with gateway.working():
        assert (await gateway.operate("alice", "C", "Retrieve"))["statusCode"] == 0


async def test_an_answer_names_its_operation_however_it_ends(gateway: InProcess) -> None:
    key, hold = {"Idempotency-Key": "k"}, {"operationName": "Hold"}
    async with gateway.working():
        await gateway.send_facts(started("C", "15000"))
    in_doubt = await gateway.request("alice", "POST", "/me/calls/C", hold, Prefer="wait=0", **key)
    async with gateway.working():
        applied = await gateway.request("alice", "POST", "/me/calls/C", hold, Prefer="wait=10", **key)
        replayed = await gateway.request("alice", "POST", "/me/calls/C", hold, Prefer="wait=10", **key)
        refused = await gateway.request("alice", "POST", "/me/calls/C", hold, Prefer="wait=10")
    answers = (in_doubt, applied, replayed, refused)
    assert [each.status_code for each in answers] == [202, 200, 200, 400]
    assert [each.headers["Preference-Applied"] for each in answers] == ["wait=0", "wait=10", "wait=10", "wait=10"]
    assert "Idempotent-Replayed" in replayed.headers
    assert len({each.headers["Operation-Id"] for each in (in_doubt, applied, replayed)}) == 1
    assert refused.headers["Operation-Id"] != applied.headers["Operation-Id"]


class BrokenBroker(MemoryBroker):
    """A broker with a fault that nobody foresaw."""

    async def publish_operation(self, partition: Partition, body: bytes, message_id: str) -> None:
        raise RuntimeError(partition, body, message_id)


async def test_an_internal_error_names_its_operation(tmp_path: Path) -> None:
    session = {"operationName": "EndContactCenterSession"}
    async with in_process(tmp_path, lambda made: replace(made, broker=BrokenBroker(1))) as gateway:
        answer = await gateway.request("alice", "POST", "/me", session)
    assert (answer.status_code, answer.json()["statusCode"]) == (500, 4)
    assert answer.headers["Operation-Id"]


async def test_the_role_is_checked_before_the_body_is_read(gateway: InProcess) -> None:
    async def body() -> AsyncIterator[bytes]:
        read.append(True)
        yield b"{}"

    read: list[bool] = []
    transport = httpx.ASGITransport(gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", auth=("alice", "demo")) as http:
        answer = await http.post("/api/v2/switch/events", content=body())
    assert (answer.status_code, answer.json()["statusCode"]) == (403, 3)
    assert "the role switch" in answer.json()["statusMessage"]
    assert not read


async def test_pages_may_read_all_headers_that_are_described(tmp_path: Path) -> None:
    page = "https://desk.example"
    async with in_process(tmp_path, allowed_origins=page) as gateway:
        answer = await gateway.request("alice", "GET", "/me", Origin=page)
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    responses = [
        response
        for methods in openapi()["paths"].values()
        for operation in methods.values()
        for response in operation["responses"].values()
    ]
    assert sorted(exposed) == sorted({name for each in responses for name in each["headers"]})


async def test_who_left_a_call_that_goes_on_may_not_see_or_change_it(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000", "15001", "15002"))
        left = await gateway.operate("alice", "C", "Hangup")
        assert left["call"]["state"] == "Released"
        for answer in (
            await gateway.request("alice", "GET", "/me/calls/C"),
            await gateway.request("alice", "POST", "/me/calls/C", {"operationName": "DeleteUserData"}),
        ):
            assert (answer.status_code, answer.json()["statusCode"]) == (403, 5)
        assert (await gateway.request("alice", "GET", "/me/calls")).json()["uris"] == []
        after = await gateway.operate("bob", "C", "AttachUserData", userData={"after": "she left"})
        assert after["statusCode"] == 0
        await gateway.operate("bob", "C", "Hangup")
        over = await gateway.request("bob", "GET", "/me/calls/C")
        assert over.json()["call"]["state"] == "Released"
        for answer in (
            await gateway.request("alice", "GET", "/me/calls/C"),
            await gateway.request("alice", "GET", "/me/calls/C?fields=*"),
        ):
            assert (answer.status_code, answer.json()["statusCode"]) == (403, 5), "nor once it is over"
        assert (await gateway.request("alice", "GET", "/me/calls")).json()["uris"] == []


async def test_a_user_dials_from_one_own_device_to_another(tmp_path: Path) -> None:
    def with_two(made: Backends) -> Backends:
        return replace(made, directory=with_second_device("alice", "d2", "15010"))

    async with in_process(tmp_path, with_two) as gateway, gateway.working():
        body = {"operationName": "Dial", "destination": {"phoneNumber": "15010"}}
        path = f"/me/devices/{ALICES_DEVICE}/calls"
        begun = (await gateway.request("alice", "POST", path, body, Prefer="wait=10")).json()["call"]
        assert begun["state"] == "Dialing"
        answered = await gateway.operate("alice", begun["id"], "Answer")
        assert (answered["statusCode"], answered["call"]["state"]) == (0, "Established")
        assert (await gateway.operate("alice", begun["id"], "Hold"))["call"]["state"] == "Held"


class StalledBroker(MemoryBroker):
    """A broker that takes operations only once it is `free`."""

    def __init__(self) -> None:
        super().__init__(1)
        self.free = asyncio.Event()
        self.asked = 0

    async def publish_operation(self, partition: Partition, body: bytes, message_id: str) -> None:
        self.asked += 1
        await self.free.wait()
        await super().publish_operation(partition, body, message_id)


async def test_no_more_than_so_many_operations_wait_for_the_broker(tmp_path: Path) -> None:
    broker = StalledBroker()
    session = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
    async with in_process(tmp_path, lambda made: replace(made, broker=broker), gateway={"max_in_flight": 1}) as gateway:
        first = asyncio.create_task(gateway.request("alice", "POST", "/me", session))
        await eventually(lambda: broker.asked == 1)
        refused = await gateway.request("bob", "POST", "/me", session)
        assert (refused.status_code, refused.json()["statusCode"]) == (503, 4)
        assert "1 operations wait for a publisher confirm" in refused.json()["statusMessage"]
        assert 1 <= int(refused.headers["Retry-After"]) <= 3
        broker.free.set()
        assert (await first).json() == {"statusCode": 0}
        assert (await gateway.request("bob", "POST", "/me", session)).json() == {"statusCode": 0}
        assert broker.asked == 2


async def test_operations_of_one_user_have_a_rate(tmp_path: Path) -> None:
    session = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
    async with in_process(tmp_path, gateway={"user_operations_per_s": 0.05, "user_burst": 2}) as gateway:
        answers = [await gateway.request("alice", "POST", "/me", session) for _ in range(3)]
        assert [each.status_code for each in answers] == [200, 200, 429]
        assert answers[2].json()["statusCode"] == 4
        assert "to one user" in answers[2].json()["statusMessage"]
        assert 15 <= int(answers[2].headers["Retry-After"]) <= 20
        # Who only reads is not held up, nor is another user, nor the switch.
        assert (await gateway.request("alice", "GET", "/me/calls")).status_code == 200
        assert (await gateway.request("bob", "POST", "/me", session)).status_code == 200
        for number in range(3):
            told = await gateway.request("switch", "POST", "/switch/events", ended(f"C{number}"))
            assert told.status_code == 200


async def test_no_more_than_so_many_requests_wait_for_outcomes(tmp_path: Path) -> None:
    session = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
    async with in_process(tmp_path, gateway={"max_waiting": 1}) as gateway:
        first = asyncio.create_task(gateway.request("alice", "POST", "/me", session, Prefer="wait=10"))

        async def is_published() -> bool:
            return await gateway.broker.depth(Partition(0)) == 1

        await eventually(is_published)
        refused = await gateway.request("bob", "POST", "/me", session, Prefer="wait=10")
        assert (refused.status_code, refused.json()["statusCode"]) == (503, 4)
        assert "1 requests wait for outcomes" in refused.json()["statusMessage"]
        async with gateway.working():
            assert (await first).json() == {"statusCode": 0}


async def limited(gateway: InProcess, limit: str) -> float:
    """How many requests met the limit."""
    text = gateway.backends.metrics.exposition().decode()
    [line] = [
        each for each in text.splitlines() if each.startswith(f'calltag_requests_limited_total{{limit="{limit}"}}')
    ]
    return float(line.split()[-1])


async def dialed(gateway: InProcess, user: str, device: str, number: str, **headers: str) -> httpx.Response:
    body = {"operationName": "Dial", "destination": {"phoneNumber": number}}
    return await gateway.request(user, "POST", f"/me/devices/{device}/calls", body, Prefer="wait=10", **headers)


async def test_who_is_on_so_many_calls_begins_no_more(tmp_path: Path) -> None:
    async with in_process(tmp_path, gateway={"max_live_calls": 2}) as gateway, gateway.working():
        keyed = {"Idempotency-Key": "k"}
        first = await dialed(gateway, "alice", ALICES_DEVICE, "0891", **keyed)
        # The switch tells what is, of however many calls.
        for number in range(3):
            assert (await gateway.send_facts(started(f"C{number}", "15000", "0892"))).json() == {"statusCode": 0}
        refused = await dialed(gateway, "alice", ALICES_DEVICE, "0893")
        assert (refused.status_code, refused.json()["statusCode"]) == (400, 2)
        assert "alice has 2 live calls or more" in refused.json()["statusMessage"]
        assert "CALLTAG_GATEWAY__MAX_LIVE_CALLS" in refused.json()["statusMessage"]
        assert len((await gateway.request("alice", "GET", "/me/calls")).json()["uris"]) == 4
        # What was accepted before is not held against the limit now.
        assert (await dialed(gateway, "alice", ALICES_DEVICE, "0891", **keyed)).json()["call"]["id"] == (
            first.json()["call"]["id"]
        )
        of_bob = await dialed(gateway, "bob", BOBS_DEVICE, "15000")
        assert (of_bob.status_code, of_bob.json()["statusCode"]) == (400, 2)
        assert of_bob.json()["statusMessage"].startswith("the destination has 2 live calls or more")
        assert await limited(gateway, "max_live_calls") == 2
        for number in range(3):
            await gateway.send_facts(ended(f"C{number}"))
        assert (await dialed(gateway, "alice", ALICES_DEVICE, "0893")).json()["statusCode"] == 0


async def test_the_answer_with_all_calls_has_a_bound(tmp_path: Path) -> None:
    async with in_process(tmp_path, gateway={"max_calls_bytes": 20_000}) as gateway, gateway.working():
        for number in range(3):
            await gateway.send_facts(started(f"C{number}", "15000", userData={"k": "x" * 8_000}))
        for query in ("fields=*", "fields=id,userData", "fields=userData&fields=id"):
            refused = await gateway.request("alice", "GET", f"/me/calls?{query}")
            assert (refused.status_code, refused.json()["statusCode"]) == (400, 10)
            for said in ("20000 bytes", "CALLTAG_GATEWAY__MAX_CALLS_BYTES", "fewer fields"):
                assert said in refused.json()["statusMessage"]
        assert await limited(gateway, "max_calls_bytes") == 3
        without = await gateway.request("alice", "GET", "/me/calls?fields=id,state,uri")
        assert [each["id"] for each in without.json()["calls"]] == ["C0", "C1", "C2"]
        uris = (await gateway.request("alice", "GET", "/me/calls")).json()["uris"]
        for uri in uris:
            one = await gateway.request("alice", "GET", uri.partition("/api/v2")[2])
            assert len(one.json()["call"]["userData"]["k"]) == 8_000
        await gateway.send_facts(ended("C0"))
        all_fields = await gateway.request("alice", "GET", "/me/calls?fields=*")
        assert [len(each["userData"]["k"]) for each in all_fields.json()["calls"]] == [8_000, 8_000]


async def test_the_bound_holds_for_what_is_not_user_data(tmp_path: Path) -> None:
    async with in_process(tmp_path, gateway={"max_calls_bytes": 1_000}) as gateway, gateway.working():
        for number in range(4):
            await gateway.send_facts(started(f"C{number}", "15000"))
        assert (await gateway.request("alice", "GET", "/me/calls")).status_code == 200
        refused = await gateway.request("alice", "GET", "/me/calls?fields=participants,capabilities,uri,deviceUri")
        assert (refused.status_code, refused.json()["statusCode"]) == (400, 10)


@pytest.mark.parametrize("fields", [["*,id"], ["id", "*"]])
async def test_all_fields_are_asked_for_by_a_star_among_others(gateway: InProcess, fields: list[str]) -> None:
    query = "&".join(f"fields={each}" for each in fields)
    answer = await gateway.request("alice", "GET", f"/me?{query}")
    assert answer.json()["user"]["userName"] == "alice"
    some = await gateway.request("alice", "GET", "/me?fields=id&fields=roles")
    assert some.json()["user"] == {"id": "alice", "roles": ["agent"]}
