"""Cookies and headers that come more than once, sessions that are over, and what the store knows of them."""

from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from calltag.core.bayeux import errors
from calltag.core.domain.ids import UserId
from calltag.core.identity.http_sessions import CSRF_HEADER, Login
from calltag.notifier.authentication import Authentication, credentials_of
from integration.test_access import HELLO
from parts.both_in_process import Both, both_in_process
from parts.store_commands import library


def basic(name: str) -> str:
    return "Basic " + b64encode(f"{name}:demo".encode()).decode()


@pytest.fixture
async def centre(tmp_path: Path) -> AsyncIterator[Both]:
    async with both_in_process(tmp_path / "data") as made:
        yield made


@pytest.fixture
async def protected(tmp_path: Path) -> AsyncIterator[Both]:
    async with both_in_process(tmp_path / "data", session={"csrf_protection": True}) as made:
        yield made


Headers = Sequence[tuple[str, str]]


async def me(centre: Both, *headers: tuple[str, str]) -> Any:
    centre.http.cookies.clear()
    return await centre.http.get("/api/v2/me", headers=list(headers))


async def shake(centre: Both, *headers: tuple[str, str]) -> Any:
    """The reply to a handshake, or what is answered instead."""
    centre.http.cookies.clear()
    answer = await centre.http.post("/genesys/cometd/handshake", json=[HELLO], headers=list(headers))
    return answer.json()[0] if answer.status_code == 200 else answer.status_code


async def signed_in(centre: Both, name: str = "alice") -> str:
    answer = await me(centre, ("Authorization", basic(name)))
    assert answer.status_code == 200
    return str(answer.cookies["JSESSIONID"])


def cookies(*values: str) -> list[tuple[str, str]]:
    return [("Cookie", "; ".join(f"JSESSIONID={value}" for value in values))]


async def test_of_several_cookies_the_valid_one_counts_everywhere(centre: Both) -> None:
    valid = await signed_in(centre)
    in_two_headers = [*cookies("other"), *cookies(valid)]
    for shown in (cookies(valid, "other"), cookies("other", valid), cookies("a", "b", valid), in_two_headers):
        assert (await me(centre, *shown)).status_code == 200, shown
        assert (await shake(centre, *shown))["successful"], shown
        assert await proven(centre, shown) == "alice", shown


async def proven(centre: Both, headers: Headers) -> str | None:
    """Whom the opening of a WebSocket proves."""
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    authentication = Authentication(centre.backends.authenticator())
    return (await authentication.caller(credentials_of(raw, "", is_http=False), None, begins=True)).user


async def test_valid_cookies_of_several_users_prove_nobody_anywhere(centre: Both) -> None:
    shown = cookies(await signed_in(centre, "alice"), await signed_in(centre, "bob"))
    refused = await me(centre, *shown)
    assert (refused.status_code, "of several users" in refused.json()["statusMessage"]) == (401, True)
    assert (await shake(centre, *shown))["error"] == errors.UNAUTHORIZED
    assert await proven(centre, shown) is None


@pytest.mark.parametrize("ended", ["ended", "never there"])
async def test_a_session_that_is_over_is_told_so(centre: Both, ended: str) -> None:
    nothing = await me(centre)
    assert "send HTTP Basic credentials or the session cookie" in nothing.json()["statusMessage"]
    assert (await shake(centre))["error"] == errors.UNAUTHORIZED
    token = await signed_in(centre) if ended == "ended" else "another-application"
    await centre.backends.authenticator()._sessions.end(token)
    refused = await me(centre, *cookies(token))
    assert refused.status_code == 401
    assert refused.json()["statusMessage"] == "the session is over: sign in again"
    assert (
        (await shake(centre, *cookies(token)))["error"]
        == errors.SESSION_OVER
        == ("401::The session is over, sign in again")
    )
    # Credentials in the handshake itself count all the same.
    hello = HELLO | {"ext": {"authentication": {"user": "alice", "password": "demo"}}}
    answer = await centre.http.post("/genesys/cometd/handshake", json=[hello], headers=cookies(token))
    assert answer.json()[0]["successful"]


async def test_two_authorization_headers_are_refused(centre: Both) -> None:
    for second in ("alice", "bob"):
        two = [("Authorization", basic("alice")), ("Authorization", basic(second))]
        refused = await me(centre, *two)
        assert refused.status_code == 401
        assert "several Authorization headers: send one" in refused.json()["statusMessage"]
        assert (await shake(centre, *two))["error"] == errors.UNAUTHORIZED


async def test_two_idempotency_keys_are_refused(centre: Both) -> None:
    headers = [("Authorization", basic("alice")), ("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    body = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
    refused = await centre.http.post("/api/v2/me", json=body, headers=headers)
    assert refused.status_code == 400
    assert "several Idempotency-Key headers: send one" in refused.json()["statusMessage"]


async def test_csrf_protection_is_one_setting_for_both_and_one_token_counts(protected: Both) -> None:
    first = await me(protected, ("Authorization", basic("alice")))
    token, shown = first.headers[CSRF_HEADER], cookies(first.cookies["JSESSIONID"])
    body = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
    for tokens, passes in (([token], True), ([], False), ([token, token], False), (["other", token], False)):
        headers = [*shown, *((CSRF_HEADER, each) for each in tokens)]
        done = await protected.http.post("/api/v2/me", json=body, headers=headers)
        assert (done.status_code != 403) is passes, tokens
        assert (await shake(protected, *headers) != 403) is passes, tokens
    assert (await me(protected, *shown)).headers[CSRF_HEADER] == token, "it lives as long as the session"


async def test_the_store_knows_nothing_that_lets_anybody_in(protected: Both) -> None:
    first = await me(protected, ("Authorization", basic("alice")))
    cookie, token = first.cookies["JSESSIONID"], first.headers[CSRF_HEADER]
    ids = [(await shake(protected, *cookies(cookie), (CSRF_HEADER, token)))["clientId"]]
    hello = HELLO | {"ext": {"authentication": {"user": "bob", "password": "demo"}}}
    protected.http.cookies.clear()
    ids.append((await protected.http.post("/genesys/cometd/handshake", json=[hello])).json()[0]["clientId"])
    left = (await protected.http.post("/genesys/cometd/handshake", json=[hello])).json()[0]["clientId"]
    goodbye = [{"channel": "/meta/disconnect", "clientId": left}]
    assert (await protected.http.post("/genesys/cometd/disconnect", json=goodbye)).json()[0]["successful"]
    connection: Any = library(protected.backends.client)
    names = [name async for name in connection.scan_iter("*")]
    reading = {
        b"string": connection.get,
        b"hash": connection.hgetall,
        b"zset": lambda name: connection.zrange(name, 0, -1, withscores=True),
        b"set": connection.smembers,
        b"list": lambda name: connection.lrange(name, 0, -1),
        b"stream": connection.xrange,
    }
    everything = str(names) + "".join([str(await reading[await connection.type(name)](name)) for name in names])
    assert {"session:", "end:", "sessions", ":http:", "http-of:"} <= {
        part for part in ("session:", "end:", "sessions", ":http:", "http-of:") if part in everything
    }
    for secret in (cookie, token, *ids, left):
        # Nor the part of it that is random.
        assert secret not in everything
        assert secret[1:33] not in everything


async def test_a_user_has_so_many_sessions(tmp_path: Path) -> None:
    async with both_in_process(tmp_path / "data", session={"max_per_user": 2}) as centre:
        # Each process gives a client without cookies the same session for a while: another one is another process.
        made = []
        for _ in range(3):
            login = Login(centre.backends.directory.users[UserId("alice")])
            made.append((await centre.backends.authenticator().begin_session(login)).session.token)
        answers = [(await me(centre, *cookies(token))).status_code for token in made]
        assert answers == [401, 200, 200]
        assert "calltag_http_sessions_evicted_total 1.0" in centre.backends.metrics.exposition().decode()
