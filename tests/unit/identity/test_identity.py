"""Users, passwords, sessions, and what proves who sent a request."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from calltag.core.domain.ids import UserId
from calltag.core.identity.authentication import Authenticator, WrongCredentials
from calltag.core.identity.csrf import csrf_headers, csrf_passes
from calltag.core.identity.directory_file import DirectoryError, demo_directory, parse_directory, read_directory
from calltag.core.identity.http_sessions import HttpSession, RedisHttpSessions
from calltag.core.identity.model import Role
from calltag.core.identity.passwords import Passwords
from calltag.core.store.embedded import embedded_store

HASH = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$x"


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.fixture
async def sessions() -> AsyncIterator[RedisHttpSessions]:
    async with embedded_store(None) as store:
        yield RedisHttpSessions(store.client)


@pytest.fixture
def authenticator(sessions: RedisHttpSessions) -> Authenticator:
    directory = demo_directory()
    return Authenticator(directory, Passwords(directory), sessions, secure_cookies=True)


async def test_basic_credentials_yield_a_session_that_any_process_accepts(authenticator: Authenticator) -> None:
    known = await authenticator.identify(basic("alice", "demo"), None)
    assert known is not None
    assert known.user.id == "alice"
    assert known.set_cookie is not None
    assert known.set_cookie.endswith("Path=/; HttpOnly; SameSite=Lax; Secure")
    again = await authenticator.identify(None, known.session.token)
    assert again is not None
    assert (again.user.id, again.set_cookie) == ("alice", None)
    both = await authenticator.identify(basic("alice", "demo"), known.session.token)
    assert both is not None
    assert both.set_cookie is None
    other = await authenticator.identify(basic("bob", "demo"), known.session.token)
    assert other is not None
    assert (other.user.id, other.session.token != known.session.token) == ("bob", True)


async def test_a_client_without_cookies_does_not_pile_up_sessions(authenticator: Authenticator) -> None:
    first = await authenticator.identify(basic("alice", "demo"), None)
    second = await authenticator.identify(basic("alice", "demo"), None)
    assert first is not None
    assert second is not None
    assert first.session == second.session


@pytest.mark.parametrize(
    "authorization",
    [
        basic("alice", "wrong"),
        basic("nobody", "demo"),
        basic("alice", "x" * 2_000),
        "Bearer x",
        "Basic !!",
        "Basic YQ==",
    ],
)
async def test_wrong_credentials(authenticator: Authenticator, authorization: str) -> None:
    with pytest.raises(WrongCredentials):
        await authenticator.identify(authorization, None)


async def test_nothing_proves_nothing(authenticator: Authenticator) -> None:
    assert await authenticator.identify(None, None) is None
    assert await authenticator.identify(None, "unknown") is None
    assert await authenticator.log_in("alice", "wrong") is None
    assert await authenticator.log_in("alice", "demo") is not None


async def test_a_session_ends(sessions: RedisHttpSessions) -> None:
    session = await sessions.create(UserId("alice"))
    assert await sessions.find(session.token) == session
    await sessions.end(session.token)
    assert await sessions.find(session.token) is None


async def test_a_session_ends_with_its_lifetime() -> None:
    now = [1_000.0]
    async with embedded_store(None) as store:
        sessions = RedisHttpSessions(store.client, lifetime_s=10, clock_s=lambda: now[0])
        session = await sessions.create(UserId("alice"))
        now[0] += 11
        assert await sessions.find(session.token) is None


async def test_a_password_is_remembered_for_a_while() -> None:
    now = [0.0]
    passwords = Passwords(demo_directory(), remember_s=10, remember_most=1, clock_s=lambda: now[0])
    for name in ("alice", "bob", "alice", "alice"):
        user = await passwords.check(name, "demo")
        assert user is not None
        assert user.id == name
    now[0] = 11
    assert await passwords.check("alice", "demo") is not None


def test_requests_by_cookie_must_show_the_token() -> None:
    session = HttpSession("t", UserId("alice"), "csrf")
    assert csrf_headers(session) == {"X-CSRF-HEADER": "X-CSRF-TOKEN", "X-CSRF-TOKEN": "csrf"}
    assert csrf_passes("GET", session, None, by_cookie=True)
    assert csrf_passes("POST", session, None, by_cookie=False)
    assert csrf_passes("POST", session, "csrf", by_cookie=True)
    assert not csrf_passes("POST", session, "other", by_cookie=True)
    assert not csrf_passes("POST", session, None, by_cookie=True)


def test_the_demo_contact_centre() -> None:
    directory = demo_directory()
    assert set(directory.users) == {"alice", "bob", "carol", "dave", "admin", "switch"}
    assert directory.by_number["15000"].device.id == "631608b3-ceb1-472b-ba05-2ae39555b0d1"
    assert directory.users[UserId("carol")].roles == {Role.AGENT, Role.SUPERVISOR}
    assert not directory.users[UserId("dave")].features
    assert directory.users[UserId("admin")].is_administrator


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("=", "not TOML"),
        ("x = 1", "users"),
        ('[[users]]\nid = "a"\npassword_hash = "plain"', r"users\.0\.password_hash"),
        (f'[[users]]\nid = "a"\npassword_hash = "{HASH}"\ncolour = 1', "colour"),
        (f'[[users]]\nid = "a"\npassword_hash = "{HASH}"\n' * 2, "user id a is there twice"),
    ],
)
def test_a_directory_that_is_not_right(text: str, word: str) -> None:
    with pytest.raises(DirectoryError, match=word):
        parse_directory(text, "file.toml")


def test_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="cannot be read"):
        read_directory(tmp_path / "none.toml")
