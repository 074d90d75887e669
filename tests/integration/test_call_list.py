"""The list of calls: who sees which, filters, pages, and calls that begin and end between two pages."""

from pathlib import Path
from typing import Any

import pytest

from parts.in_process import InProcess, ended, in_process, started

JSON = dict[str, Any]
NUMBERS = {"alice": "15000", "bob": "15001", "carol": "15002", "admin": "15004"}


async def begin(gateway: InProcess, call: str, *users: str, state: str = "Established") -> None:
    parties = [{"phoneNumber": NUMBERS.get(user, user), "state": state} for user in users]
    fact = {**started(call), "parties": parties, "userData": {"of": call}}
    assert (await gateway.send_facts(fact)).json() == {"statusCode": 0}


async def listed(gateway: InProcess, user: str, query: str = "") -> list[str]:
    """The ids on all pages, one page after another."""
    path, found = f"/calls?fields=id&{query}", list[str]()
    while path:
        answer = (await gateway.request(user, "GET", path)).json()
        assert answer["statusCode"] == 0, answer
        found += [each["id"] for each in answer["calls"]]
        path = answer.get("nextUri", "").partition("/api/v2")[2]
    return found


@pytest.fixture
async def busy(tmp_path: Path) -> Any:
    async with in_process(tmp_path) as gateway, gateway.working():
        await begin(gateway, "A1", "alice")
        await begin(gateway, "AB", "alice", "bob")
        await begin(gateway, "B1", "bob", state="Held")
        await begin(gateway, "C1", "carol")
        await begin(gateway, "D1", "admin", "0891234")
        yield gateway


@pytest.mark.parametrize(
    ("user", "calls"),
    [
        ("alice", {"A1", "AB"}),
        ("bob", {"AB", "B1"}),
        ("carol", {"A1", "AB", "B1", "C1"}),
        ("admin", {"A1", "AB", "B1", "C1", "D1"}),
        ("switch", set()),
    ],
)
async def test_who_sees_which_calls(busy: InProcess, user: str, calls: set[str]) -> None:
    found = await listed(busy, user)
    assert (set(found), len(found)) == (calls, len(calls))
    for most in (1, 2, 3):
        assert await listed(busy, user, f"limit={most}") == found


@pytest.mark.parametrize(
    ("query", "calls"),
    [
        ("user=bob", ["AB", "B1"]),
        ("state=Held", ["B1"]),
        ("state=Dialing", []),
        ("device=631608b3-ceb1-472b-ba05-2ae39555b0d1", ["A1", "AB"]),
        ("device=7d1f6a52-9c0b-4c62-8c5e-0f3a6b1d2e01", ["AB", "B1"]),
        ("device=7d1f6a52-9c0b-4c62-8c5e-0f3a6b1d2e01&user=alice", []),
        ("maxAge=3600", ["A1", "AB", "B1", "C1"]),
        ("minAge=3600", []),
        ("user=bob&state=Held&maxAge=60&limit=1", ["B1"]),
    ],
)
async def test_filters(busy: InProcess, query: str, calls: list[str]) -> None:
    assert await listed(busy, "carol", query) == calls


@pytest.mark.parametrize(
    ("query", "code", "text"),
    [
        ("user=dave", 5, "dave"),
        ("device=7d1f6a52-9c0b-4c62-8c5e-0f3a6b1d2e03", 5, "dave"),
        ("user=nobody", 6, "there is no user nobody"),
        ("device=none", 6, "there is no device none"),
        ("state=Busy", 10, "Dialing, Ringing"),
        ("minAge=soon", 10, "minAge"),
        ("limit=0", 10, "from 1 to 200"),
        ("limit=201", 10, "from 1 to 200"),
        ("after=here", 10, "nextUri"),
    ],
)
async def test_wrong_parameters(busy: InProcess, query: str, code: int, text: str) -> None:
    answer = (await busy.request("carol", "GET", f"/calls?{query}")).json()
    assert (answer["statusCode"], text in answer["statusMessage"]) == (code, True), answer


async def test_a_call_that_lasts_is_on_one_page_whatever_begins_and_ends_between(busy: InProcess) -> None:
    first = (await busy.request("admin", "GET", "/calls?limit=2")).json()
    await busy.send_facts(ended("A1"))
    await begin(busy, "A0", "alice")
    await begin(busy, "Z9", "alice", "carol")
    rest = await listed(busy, "admin", first["nextUri"].partition("?")[2])
    seen = [uri.rpartition("/")[2] for uri in first["uris"]] + rest
    assert len(seen) == len(set(seen))
    assert {"AB", "B1", "C1", "D1"} <= set(seen)


async def test_a_call_that_one_user_left_is_listed_by_the_others(tmp_path: Path) -> None:
    async with in_process(tmp_path) as gateway, gateway.working():
        await begin(gateway, "ABX", "alice", "bob", "admin")
        left = (await gateway.request("alice", "POST", "/me/calls/ABX", {"operationName": "Hangup"})).json()
        assert left["statusCode"] == 0
        for user, calls in (("alice", []), ("bob", ["ABX"]), ("carol", ["ABX"]), ("admin", ["ABX"])):
            assert await listed(gateway, user) == calls


async def test_whole_calls_come_with_their_user_data_as_their_user_sees_them(busy: InProcess) -> None:
    calls = (await busy.request("carol", "GET", "/calls?fields=*&user=bob")).json()["calls"]
    assert [(each["id"], each["state"], each["userData"]) for each in calls] == [
        ("AB", "Established", {"of": "AB"}),
        ("B1", "Held", {"of": "B1"}),
    ]
    for each in calls:
        assert (await busy.request("carol", "GET", each["path"])).json()["call"]["id"] == each["id"]


async def test_a_page_is_bounded_in_bytes(tmp_path: Path) -> None:
    async with in_process(tmp_path, gateway={"max_calls_bytes": 2_500}) as gateway, gateway.working():
        for number in range(6):
            await begin(gateway, f"C{number}", "alice")
        page = (await gateway.request("alice", "GET", "/calls?fields=*")).json()
        assert 1 <= len(page["calls"]) < 6
        assert await listed(gateway, "alice", "fields=*") == [f"C{number}" for number in range(6)]
