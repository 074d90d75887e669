"""Whoever is removed from the directory, or has a new password, is let in with nothing from before."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from argon2 import PasswordHasher

from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import Directory, directory
from calltag.core.store.client_ids import digest_of
from integration.test_access import HELLO, MARK, begin, cometd, connecting, shaken, subscribing
from parts.access_table import JSON, PASSWORD, contact_centre
from parts.both_in_process import Both, both_in_process

ALICE = UserId("alice")
CENTRE = contact_centre()
UNKNOWN = "402::Unknown client"


def without_alice() -> Directory:
    return directory(tuple(user for user in CENTRE.users.values() if user.id != ALICE))


def with_another_password(user: UserId = ALICE) -> Directory:
    stored = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("another-password")
    users = CENTRE.users.values()
    return directory(tuple(replace(each, password_hash=stored) if each.id == user else each for each in users))


CHANGES: Mapping[str, Callable[[], Directory]] = {"removed": without_alice, "new password": with_another_password}


@asynccontextmanager
async def installation(folder: Path, centre: Directory) -> AsyncIterator[Both]:
    """All processes, as they start with that directory on what the store has."""
    settings = {
        "login": {"failures_per_user": 0, "failures_per_address": 0},
        "notifier": {"timeout_s": 0.2, "max_interval_s": 300},
    }
    async with both_in_process(folder, lambda made: replace(made, directory=centre), **settings) as made:
        yield made


async def shaken_by_herself(centre: Both) -> str:
    """A session of alice's whose handshake itself has the credentials."""
    [reply] = await cometd(
        centre, "nobody", HELLO | {"ext": {"authentication": {"user": "alice", "password": PASSWORD}}}
    )
    assert reply["successful"], reply
    return str(reply["clientId"])


async def kept(centre: Both) -> set[str]:
    """The digests of the sessions of CometD that the store has."""
    client, prefix = centre.backends.client, centre.backends.keys.cometd_session(ALICE, "")
    return {key.decode().removeprefix(prefix) async for key in client.scan(f"{prefix}*", "hash", 100)}


def messages_of(client_id: str) -> dict[str, JSON]:
    return {
        "connect": connecting(client_id),
        "subscribe": subscribing(client_id, "/v2/me/calls", replay={"/v2/me/calls": -2}),
        "unsubscribe": {"channel": "/meta/unsubscribe", "clientId": client_id, "subscription": "/v2/me/calls"},
        "publish": {"channel": "/service/x", "clientId": client_id, "data": {}},
    }


@pytest.mark.parametrize("change", CHANGES)
async def test_a_session_known_by_its_id_ends_with_the_login_that_began_it(tmp_path: Path, change: str) -> None:
    async with installation(tmp_path, CENTRE) as centre:
        hers = {name: await shaken_by_herself(centre) for name in messages_of("")}
        for client_id in hers.values():
            await cometd(centre, "nobody", subscribing(client_id, "/v2/me/calls"), connecting(client_id))
        await begin(centre, "before")
    async with installation(tmp_path, CHANGES[change]()) as centre:
        await begin(centre, "after")
        assert await kept(centre) == set(map(digest_of, hers.values()))
        for name, client_id in hers.items():
            answer = await cometd(centre, "nobody", messages_of(client_id)[name])
            assert [each.get("error") for each in answer] == [UNKNOWN], (name, answer)
            assert MARK not in str(answer)
            assert digest_of(client_id) not in await kept(centre), name
    async with installation(tmp_path, CENTRE) as centre:
        for name, client_id in hers.items():
            [reply] = await cometd(centre, "nobody", messages_of(client_id)[name])
            assert reply.get("error") == UNKNOWN, (name, reply)


async def test_who_is_another_hears_on_after_it(tmp_path: Path) -> None:
    """A restart alone ends nothing, nor does another's new password."""
    async with installation(tmp_path, CENTRE) as centre:
        hers = await shaken_by_herself(centre)
        await cometd(centre, "nobody", subscribing(hers, "/v2/me/calls"), connecting(hers))
        cookie = await signed_in(centre)
    async with installation(tmp_path, with_another_password(UserId("bob"))) as centre:
        await begin(centre, "after")
        assert MARK in str(await cometd(centre, "nobody", connecting(hers)))
        assert (await calls_by(centre, cookie)).status_code == 200


async def signed_in(centre: Both) -> str:
    """The cookie of a new session of alice's."""
    answer = await centre.http.get("/api/v2/me", auth=("alice", PASSWORD))
    assert answer.status_code == 200
    return answer.cookies["JSESSIONID"]


async def calls_by(centre: Both, cookie: str) -> httpx.Response:
    centre.http.cookies.clear()
    return await centre.http.get("/api/v2/me/calls?fields=*", headers={"Cookie": f"JSESSIONID={cookie}"})


@pytest.mark.parametrize("change", CHANGES)
async def test_a_cookie_ends_with_the_login_that_began_it(tmp_path: Path, change: str) -> None:
    async with installation(tmp_path, CENTRE) as centre:
        cookie = await signed_in(centre)
        await begin(centre, "C1")
        assert MARK in (await calls_by(centre, cookie)).text
    async with installation(tmp_path, CHANGES[change]()) as centre:
        refused = await calls_by(centre, cookie)
        assert (refused.status_code, refused.json()["statusCode"]) == (401, 20)
        assert MARK not in refused.text
        digest = sha256(cookie.encode()).hexdigest()
        assert [key async for key in centre.backends.client.scan(f"*:http:{digest}", "string", 100)] == []
    async with installation(tmp_path, CENTRE) as centre:
        assert (await calls_by(centre, cookie)).status_code == 401


@pytest.mark.parametrize("change", CHANGES)
async def test_a_session_that_the_cookie_proves_ends_with_it(tmp_path: Path, change: str) -> None:
    async with installation(tmp_path, CENTRE) as centre:
        cookie, answers = await signed_in(centre), []
        hers = await shaken(centre, "party")
        for message in (subscribing(hers, "/v2/me/calls"), connecting(hers)):
            answers += await by_cookie(centre, cookie, message)
        assert [each["successful"] for each in answers] == [True, True]
    async with installation(tmp_path, CHANGES[change]()) as centre:
        await begin(centre, "after")
        [told] = await by_cookie(centre, cookie, connecting(hers))
        assert told["error"] == UNKNOWN
        assert await kept(centre) == set()


async def by_cookie(centre: Both, cookie: str, message: JSON) -> list[JSON]:
    centre.http.cookies.clear()
    headers = {"Cookie": f"JSESSIONID={cookie}"}
    answer: list[JSON] = (await centre.http.post("/genesys/cometd", json=[message], headers=headers)).json()
    return answer
