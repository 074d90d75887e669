"""Who sent a request: by password, by cookie, by both, by neither."""

import asyncio
from base64 import b64encode
from dataclasses import replace

import pytest
from argon2 import PasswordHasher

from calltag.core.domain.agent import SYSTEM_STATES
from calltag.core.domain.ids import UserId
from calltag.core.identity.authentication import Authenticator, Identified
from calltag.core.identity.directory import Directory, User, directory
from calltag.core.identity.http_sessions import CookieFlags, HttpSession, Login, SameSite, values_of
from calltag.core.identity.login_attempts import AuthenticationError, SessionOver, WrongCredentials
from calltag.core.identity.passwords import Passwords

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
ALICE = User(UserId("alice"), CHEAP.hash("sec:ret"))
BOB = User(UserId("bob"), CHEAP.hash("hidden"))
CENTRE = directory((ALICE, BOB))


class Sessions:
    """Sessions in a dictionary; making one takes a turn of the event loop, as in a store."""

    def __init__(self) -> None:
        self.alive: dict[str, HttpSession] = {}
        self.made = 0

    async def create(self, login: Login) -> HttpSession:
        await asyncio.sleep(0)
        self.made += 1
        session = HttpSession(f"token-{self.made}", login.user.id, login.user.credential, login.ends_at)
        self.alive[session.token] = session
        return session

    async def find(self, token: str) -> HttpSession | None:
        await asyncio.sleep(0)
        return self.alive.get(token)

    async def end(self, token: str) -> None:
        self.alive.pop(token, None)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authenticator(sessions: Sessions, clock: Clock) -> Authenticator:
    return Authenticator(CENTRE, Passwords(CENTRE), sessions, clock_s=clock)


def basic(name: str, password: str) -> str:
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


ALICES = basic("alice", "sec:ret")
BOBS = basic("bob", "hidden")


async def session_of(authenticator: Authenticator, authorization: str) -> Identified:
    identified = await authenticator.identify([authorization], [])
    assert identified is not None
    return identified


async def test_a_password_yields_a_session_and_its_cookie(authenticator: Authenticator) -> None:
    identified = await session_of(authenticator, ALICES)
    assert identified.user is ALICE
    assert not identified.by_cookie
    assert identified.set_cookie == "JSESSIONID=token-1; Path=/; HttpOnly; SameSite=Lax"


async def test_the_cookie_is_enough_afterwards(authenticator: Authenticator) -> None:
    first = await session_of(authenticator, ALICES)
    again = await authenticator.identify([], [first.session.token])
    assert again == Identified(ALICE, first.session, by_cookie=True)


async def test_behind_https_the_cookie_is_for_https_only(sessions: Sessions) -> None:
    authenticator = Authenticator(CENTRE, Passwords(CENTRE), sessions, cookies=CookieFlags(secure=True))
    assert (await session_of(authenticator, ALICES)).set_cookie == (
        "JSESSIONID=token-1; Path=/; HttpOnly; SameSite=Lax; Secure"
    )


@pytest.mark.parametrize(("same_site", "written"), [("strict", "Strict"), ("lax", "Lax"), ("none", "None")])
def test_cookies_go_where_they_are_allowed_to(same_site: SameSite, written: str) -> None:
    flags = CookieFlags(secure=True, same_site=same_site)
    assert flags.set_cookie("N", "v") == f"N=v; Path=/; HttpOnly; SameSite={written}; Secure"


async def test_who_shows_nothing_is_nobody(authenticator: Authenticator) -> None:
    assert await authenticator.identify([], []) is None


@pytest.mark.parametrize("cookies", [["token-7"], ["other", "token-7"]])
async def test_who_shows_a_cookie_of_no_session_is_told_that_it_is_over(
    authenticator: Authenticator, cookies: list[str]
) -> None:
    with pytest.raises(SessionOver, match="the session is over: sign in again"):
        await authenticator.identify([], cookies)


async def test_of_several_cookies_the_valid_one_counts(authenticator: Authenticator) -> None:
    session = (await session_of(authenticator, ALICES)).session
    for cookies in ([session.token, "other"], ["other", session.token], ["a", "b", session.token, "c"]):
        assert await authenticator.identify([], cookies) == Identified(ALICE, session, by_cookie=True)
        again = await authenticator.identify([ALICES], cookies)
        assert again == Identified(ALICE, session, by_cookie=True), "beside the password, too"


async def test_valid_cookies_of_several_users_prove_nobody(authenticator: Authenticator) -> None:
    tokens = [(await session_of(authenticator, who)).session.token for who in (ALICES, BOBS)]
    with pytest.raises(WrongCredentials, match="of several users"):
        await authenticator.identify([], tokens)
    known = await authenticator.identify([BOBS], tokens)
    assert known is not None
    assert (known.user, known.session.token, known.by_cookie) == (BOB, tokens[1], True)


async def test_several_sessions_of_one_user_are_one_user(authenticator: Authenticator, sessions: Sessions) -> None:
    made = [await sessions.create(Login(ALICE)) for _ in range(2)]
    found = await authenticator.identify([], [each.token for each in made])
    assert found == Identified(ALICE, made[0], by_cookie=True)


@pytest.mark.parametrize("second", [ALICES, BOBS, ""])
async def test_several_authorization_headers_are_refused(authenticator: Authenticator, second: str) -> None:
    with pytest.raises(WrongCredentials, match="several Authorization headers"):
        await authenticator.identify([ALICES, second], [])


@pytest.mark.parametrize(
    ("headers", "values"),
    [
        ([], ()),
        (["J=a"], ("a",)),
        (["x=1; J=a; y=2"], ("a",)),
        (["J=a; J=b", "J=c"], ("a", "b", "c")),
        (["J=a;J=a; J = b "], ("a", "b")),
        (['J="a"; J=; J'], ("a",)),
        (["j=a; JJ=b"], ()),
        (["; ".join(f"J={number}" for number in range(20))], tuple("01234567")),
    ],
)
def test_cookies_of_one_name_are_all_read(headers: list[str], values: tuple[str, ...]) -> None:
    assert values_of("J", headers) == values


async def test_the_session_of_a_user_who_left_is_worth_nothing(sessions: Sessions) -> None:
    users: dict[UserId, User] = {ALICE.id: ALICE}
    authenticator = Authenticator(Directory(users, {}, {}, {}, SYSTEM_STATES), Passwords(CENTRE), sessions)
    made = await sessions.create(Login(ALICE))
    users.clear()
    with pytest.raises(SessionOver):
        await authenticator.identify([], [made.token])
    assert sessions.alive == {}


async def test_a_user_who_is_removed_while_sessions_are_read_has_none() -> None:
    users: dict[UserId, User] = {ALICE.id: ALICE}

    class Slow(Sessions):
        async def find(self, token: str) -> HttpSession | None:
            if token == "slow":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                users.clear()
            return await super().find(token)

    slow = Slow()
    authenticator = Authenticator(Directory(users, {}, {}, {}, SYSTEM_STATES), Passwords(CENTRE), slow)
    made = await slow.create(Login(ALICE))
    with pytest.raises(SessionOver):
        await authenticator.identify([], [made.token, "slow"])


@pytest.mark.parametrize(
    "began_with",
    ["", "-", BOB.credential, replace(ALICE, password_hash="old").credential],
    ids=["none", "nobody's", "another's", "her former one"],
)
async def test_a_session_ends_with_the_password_that_began_it(
    authenticator: Authenticator, sessions: Sessions, began_with: str
) -> None:
    """One of a version that did not note it ends, too."""
    made = HttpSession("token", ALICE.id, began_with)
    sessions.alive[made.token] = made
    with pytest.raises(SessionOver):
        await authenticator.identify([], [made.token])
    assert sessions.alive == {}


async def test_with_a_new_password_the_session_before_is_not_given_out_again(sessions: Sessions) -> None:
    users: dict[UserId, User] = {ALICE.id: ALICE}
    centre = Directory(users, {}, {}, {}, SYSTEM_STATES)
    authenticator = Authenticator(centre, Passwords(centre), sessions)
    former = await session_of(authenticator, ALICES)
    users[ALICE.id] = replace(ALICE, password_hash=BOB.password_hash)
    now = await session_of(authenticator, basic("alice", "hidden"))
    assert (former.session.token, now.session.token) == ("token-1", "token-2")


def test_a_credential_says_nothing_of_the_hash_and_is_no_others() -> None:
    same_hash = replace(BOB, password_hash=ALICE.password_hash)
    credentials = [ALICE.credential, BOB.credential, same_hash.credential, CENTRE.credential_of(UserId("nobody"))]
    assert len(set(credentials)) == 4
    assert all(each not in ALICE.password_hash for each in credentials[:3])
    assert CENTRE.credential_of(ALICE.id) == ALICE.credential


@pytest.mark.parametrize("with_cookie", [False, True])
@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !!!",
        "Basic é",
        "Basic " + b64encode(b"no colon").decode(),
        "Basic " + b64encode(b"alice:\xff").decode(),
        "Bearer abc",
        basic("alice", "wrong"),
        basic("alice", ""),
        basic("nobody", "sec:ret"),
        basic("bob", "sec:ret"),
    ],
)
async def test_wrong_credentials_are_refused_even_beside_a_valid_cookie(
    authenticator: Authenticator, sessions: Sessions, authorization: str, with_cookie: bool
) -> None:
    made = await sessions.create(Login(ALICE))
    with pytest.raises(WrongCredentials) as refused:
        await authenticator.identify([authorization], [made.token] if with_cookie else [])
    assert isinstance(refused.value, AuthenticationError)
    assert sessions.made == 1


async def test_the_scheme_is_read_in_any_case(authenticator: Authenticator) -> None:
    assert (await session_of(authenticator, ALICES.replace("Basic", "bAsIc"))).user is ALICE


async def test_a_password_beside_ones_own_cookie_makes_no_session(
    authenticator: Authenticator, sessions: Sessions
) -> None:
    first = await session_of(authenticator, ALICES)
    again = await authenticator.identify([ALICES], [first.session.token])
    assert again == Identified(ALICE, first.session, by_cookie=True)
    assert sessions.made == 1


@pytest.mark.parametrize("cookie", ["token-1", "token-7"])
async def test_a_password_wins_over_the_cookie_of_another(authenticator: Authenticator, cookie: str) -> None:
    await session_of(authenticator, ALICES)
    identified = await authenticator.identify([BOBS], [cookie])
    assert identified is not None
    assert identified.user is BOB
    assert identified.session.user == BOB.id
    assert not identified.by_cookie
    assert identified.set_cookie is not None
    assert "token-2" in identified.set_cookie


async def test_a_client_without_cookies_gets_the_same_session_for_a_minute(
    authenticator: Authenticator, sessions: Sessions, clock: Clock
) -> None:
    for clock.now_s, made in ((0.0, 1), (60.0, 1), (60.1, 2), (120.0, 2)):
        identified = await session_of(authenticator, ALICES)
        assert identified.set_cookie is not None
        assert sessions.made == made


async def test_a_burst_of_first_requests_makes_one_session_a_user(
    authenticator: Authenticator, sessions: Sessions
) -> None:
    found = await asyncio.gather(*(authenticator.identify([who], []) for who in [ALICES, BOBS] * 20))
    assert sessions.made == 2
    assert {each.session.token for each in found if each and each.user is ALICE} < {"token-1", "token-2"}
    assert not authenticator._turns


async def test_a_session_that_was_ended_is_not_given_out_again(
    authenticator: Authenticator, sessions: Sessions
) -> None:
    first = await session_of(authenticator, ALICES)
    await sessions.end(first.session.token)
    assert (await session_of(authenticator, ALICES)).session.token == "token-2"


async def test_what_is_held_for_reuse_is_bounded(
    authenticator: Authenticator, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calltag.core.identity.authentication._REUSE_MOST", 1)
    for authorization in (ALICES, BOBS, ALICES):
        await session_of(authenticator, authorization)
    assert sessions.made == 3
    assert len(authenticator._recent) == 1


async def test_logging_in_makes_a_session(authenticator: Authenticator) -> None:
    login = await authenticator.check("alice", "sec:ret")
    assert login == Login(ALICE)
    identified = await authenticator.begin_session(login)
    assert identified.set_cookie is not None
    assert await authenticator.identify([], [identified.session.token]) is not None
    assert await authenticator.check("alice", "wrong") is None
