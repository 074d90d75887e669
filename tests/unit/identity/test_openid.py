"""Tokens of an OpenID provider: accepted, refused, and keys that change."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from calltag.core.identity.login_attempts import WrongCredentials
from calltag.core.identity.openid import OpenIdProvider, OpenIdSettings, ProviderUnavailable

ISSUER, AUDIENCE = "https://id.example.com/realm", "calltag"
NOW_S = 1_700_000_000


class Provider:
    """A provider as HTTP sees it; counts how often its keys were read."""

    def __init__(self, *keys: Any) -> None:
        self.keys = list(keys)
        self.reads = 0
        self.answer: Callable[[httpx.Request], httpx.Response] | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.answer is not None:
            return self.answer(request)
        if request.url.path.endswith("/.well-known/openid-configuration"):
            return httpx.Response(200, json={"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"})
        self.reads += 1
        return httpx.Response(200, json={"keys": [each.as_dict(private=False) for each in self.keys]})


class Clock:
    now_s = float(NOW_S)

    def __call__(self) -> float:
        return self.now_s


def key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})


FIRST, SECOND = key("first"), key("second")
CURVE = ECKey.generate_key("P-256", {"kid": "curve", "use": "sig"})


def token(signer: Any = FIRST, *, alg: str = "RS256", kid: str | None = None, **claims: Any) -> str:
    usual = {"iss": ISSUER, "aud": AUDIENCE, "exp": NOW_S + 60, "iat": NOW_S, "preferred_username": "alice"}
    merged = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return jwt.encode({"alg": alg, "kid": kid or signer.kid}, merged, signer, algorithms=[alg])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def remote() -> Provider:
    return Provider(FIRST, CURVE)


@pytest.fixture
def provider(remote: Provider, clock: Clock) -> OpenIdProvider:
    made = OpenIdProvider(OpenIdSettings(ISSUER, AUDIENCE, clock_skew_s=30, keys_lifetime_s=600), clock)
    made._http = httpx.AsyncClient(transport=httpx.MockTransport(remote))
    return made


@pytest.mark.parametrize(
    "good",
    [
        token(),
        token(CURVE, alg="ES256"),
        token(aud=["other", AUDIENCE]),
        token(exp=NOW_S - 20),
        token(nbf=NOW_S + 20),
    ],
)
async def test_valid_tokens(provider: OpenIdProvider, good: str) -> None:
    assert (await provider.check(good))["preferred_username"] == "alice"


@pytest.mark.parametrize(
    "bad",
    [
        token(iss="https://other.example.com"),
        token(iss=f"{ISSUER}/"),
        token(iss=None),
        token(aud="other"),
        token(aud=None),
        token(exp=NOW_S - 60),
        token(exp=None),
        token(exp="never"),
        token(nbf=NOW_S + 60),
        token(SECOND),
        token(SECOND, kid="first"),
        token(OctKey.import_key("secret" * 8, {"kid": "first"}), alg="HS256"),
        token() + "x",
        "",
        "...",
        "a.b.c",
        "\udcff",
        "x" * 20_000,
    ],
)
async def test_tokens_that_are_refused(provider: OpenIdProvider, bad: str) -> None:
    with pytest.raises(WrongCredentials):
        await provider.check(bad)


async def test_keys_are_read_once_and_again_after_their_lifetime(
    provider: OpenIdProvider, remote: Provider, clock: Clock
) -> None:
    for number in range(3):
        await provider.check(token(jti=str(number)))
    assert remote.reads == 1
    clock.now_s += 600
    await provider.check(token(exp=NOW_S + 1_000))
    assert remote.reads == 2


async def test_a_new_key_is_found_at_once_and_unknown_ones_cost_little(
    provider: OpenIdProvider, remote: Provider, clock: Clock
) -> None:
    await provider.check(token())
    remote.keys = [SECOND]
    assert await provider.check(token(SECOND))
    assert remote.reads == 2
    for number in range(50):
        with pytest.raises(WrongCredentials):
            await provider.check(token(kid=f"none-{number}"))
    assert remote.reads == 2
    clock.now_s += 10
    with pytest.raises(WrongCredentials):
        await provider.check(token(kid="none"))
    assert remote.reads == 3


async def test_known_keys_serve_while_the_provider_is_away(
    provider: OpenIdProvider, remote: Provider, clock: Clock
) -> None:
    await provider.check(token())
    remote.answer = lambda _: httpx.Response(500)
    clock.now_s += 700
    assert await provider.check(token(exp=NOW_S + 1_000))
    with pytest.raises(WrongCredentials):
        await provider.check(token(SECOND, exp=NOW_S + 1_000))


def _refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


@pytest.mark.parametrize(
    "answer",
    [
        _refuse,
        lambda _: httpx.Response(404),
        lambda _: httpx.Response(200, text="no json"),
        lambda _: httpx.Response(200, json=[]),
        lambda _: httpx.Response(200, json={"issuer": "https://other.example.com"}),
        lambda _: httpx.Response(200, json={"issuer": ISSUER}),
        lambda _: httpx.Response(200, json={"issuer": ISSUER, "jwks_uri": "no address"}),
        lambda _: httpx.Response(200, json={"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys", "keys": [{"kty": "?"}]}),
    ],
)
async def test_without_keys_tokens_cannot_be_checked(
    provider: OpenIdProvider, remote: Provider, answer: Callable[[httpx.Request], httpx.Response]
) -> None:
    remote.answer = answer
    with pytest.raises(ProviderUnavailable):
        await provider.check(token())
    remote.answer = None
    assert await provider.check(token())


async def test_a_checked_token_is_remembered_no_longer_than_it_lasts(
    provider: OpenIdProvider, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = token(exp=NOW_S + 5), token(exp=NOW_S + 1_000)
    await provider.check(short)
    await provider.check(long)
    checks: list[str] = []
    monkeypatch.setattr(jwt, "decode", lambda text, *_, **__: checks.append(text))
    await provider.check(short)
    await provider.check(long)
    assert checks == []
    clock.now_s += 10
    await provider.check(long)
    with pytest.raises(AttributeError):
        await provider.check(short)
    assert checks == [short]


def test_the_clock_is_that_of_the_world() -> None:
    made = OpenIdProvider(OpenIdSettings(ISSUER, AUDIENCE))
    assert abs(made._clock_s() - time.time()) < 1
