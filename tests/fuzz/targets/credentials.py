"""Authorization and Cookie headers, and credentials in a handshake, as the CometD endpoint reads them."""

from collections.abc import Sequence
from typing import cast

from calltag.core.bayeux.messages import BayeuxLimits, CodecError, decode
from calltag.core.identity.authentication import Authenticator
from calltag.core.identity.directory import User, demo_directory
from calltag.core.identity.http_sessions import HttpSession, Login
from calltag.core.identity.passwords import Passwords
from calltag.notifier.authentication import Authentication, CsrfRefused, credentials_of, proof_of
from fuzz.target import LOOP, Target

DIRECTORY = demo_directory()
PASSWORD, TOKEN = "right", "t0k3n"
WORDS = [
    b"Basic ", b"basic\t", b"YWxpY2U6cmlnaHQ=", b"YWxpY2U6", b"JSESSIONID=", b"t0k3n", b";", b"=", b'"', b"\n", b"\xe4",
    b"Bearer x", b'[{"channel":"/meta/handshake","ext":{"authentication":', b'{"user":"alice","password":"right"}',
    b'"username":', b"}}]", b"\\303", b",",
]  # fmt: skip
HELLO = b'[{"channel":"/meta/handshake","ext":{"authentication":{"user":"alice","password":"right"}}}]'
SEEDS = [
    b"Basic YWxpY2U6cmlnaHQ=\n\n[]",
    b"\nJSESSIONID=t0k3n; other=1\n[{}]",
    b"\n\n" + HELLO,
    b"Basic YWxpY2U6cmlnaHQ=\nJSESSIONID=t0k3n\n" + HELLO,
    b'Basic ::\nJSESSIONID="\\303\\244"\n{}',
]


class KnownPassword:
    """Stands for Passwords: one password is right for every user of the directory."""

    async def check(self, name: str, password: str, address: str = "") -> User | None:
        name.encode()
        password.encode()
        return next((user for user in DIRECTORY.users.values() if user.id == name and password == PASSWORD), None)


class KnownSession:
    """Implements HttpSessions: one token is bob's."""

    async def create(self, login: Login) -> HttpSession:
        return HttpSession("new", login.user.id, login.user.credential)

    async def find(self, token: str) -> HttpSession | None:
        token.encode(errors="replace")
        credential = DIRECTORY.credential_of("bob")  # type: ignore[arg-type]
        return HttpSession(token, "bob", credential) if token == TOKEN else None  # type: ignore[arg-type]

    async def end(self, token: str) -> None:
        raise AssertionError(token)


AUTHENTICATOR = Authenticator(DIRECTORY, cast(Passwords, KnownPassword()), KnownSession())


def one_input(data: bytes) -> None:
    """Three lines are Authorization, Cookie and the messages: nobody is proven who showed no right credentials."""
    authorization, _, rest = data.partition(b"\n")
    cookie, _, body = rest.partition(b"\n")
    given = [(b"authorization", authorization), (b"cookie", cookie)]
    headers = [(name, value) for name, value in given if value]
    try:
        messages = decode(body, BayeuxLimits())
    except CodecError:
        messages = [{}]
    for protected in (False, True):
        LOOP.run(_claimed(headers, messages, Authentication(AUTHENTICATOR, protected), data))


async def _claimed(
    headers: Sequence[tuple[bytes, bytes]], messages: Sequence[object], authentication: Authentication, data: bytes
) -> None:
    claim = authentication.claim(messages, credentials_of(headers, "192.0.2.1"))
    assert claim.shown.login == "" or len(claim.shown.login) == 64
    assert proof_of(headers) == proof_of([*headers, (b"host", b"a")])
    assert not headers or proof_of(headers) != proof_of([])
    try:
        caller = await claim.caller()
    except CsrfRefused:
        assert authentication.csrf_protection
        return
    if caller.user == "bob":
        assert TOKEN.encode() in data or b"asic" in data.lower() or b"right" in data
    elif caller.user is not None:
        assert caller.user in DIRECTORY.users
        assert b"basic" in data.lower() or PASSWORD in str(messages)
    assert caller.set_cookie is None or "\n" not in caller.set_cookie


TARGET = Target("credentials", one_input, SEEDS, WORDS)
