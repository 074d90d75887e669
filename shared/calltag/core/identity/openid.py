"""OpenID Connect: the provider's keys, tokens signed by them, and the authorization code flow of browsers.

Sources: OpenID Connect Core 1.0 and Discovery 1.0, RFC 9068 (access tokens as JWT), RFC 7636 (PKCE).
"""

import asyncio
import time
from base64 import b64encode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote_plus

import httpx
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet, KeySetSerialization

from calltag.core.identity.login_attempts import LoginUnavailable, WrongCredentials
from calltag.core.telemetry.conditions import Condition

Claims = Mapping[str, Any]
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a private key alone: with `HS256` or `none`, anybody could sign."""
_MAX_TOKEN_BYTES: Final = 16_384
_REMEMBERED: Final = 10_000
_REMEMBER_S: Final = 60.0
_LOOK_FOR_KEYS_S: Final = 10.0
"""Minimum time between two looks for a key that is not known."""
_DISCOVERY: Final = "/.well-known/openid-configuration"
_PROVIDER: Final = Condition(
    "openid_provider_unavailable",
    over="openid_provider_reached",
    cure="CALLTAG_OIDC__ISSUER is the provider's address; its discovery document and its keys must be reachable",
)


class ProviderUnavailable(LoginUnavailable):
    """The provider does not respond, or not as OpenID Connect demands."""


@dataclass(frozen=True, slots=True)
class OpenIdSettings:
    """The provider, and what its tokens must say. Times in seconds."""

    issuer: str
    audience: str
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    scopes: tuple[str, ...] = ("openid", "profile")
    clock_skew_s: int = 60
    keys_lifetime_s: float = 3_600.0
    timeout_s: float = 5.0
    ca_file: Path | None = None


@dataclass(slots=True)
class _Keys:
    """The provider's keys, and when they were asked for."""

    keys: KeySet | None = None
    asked_at_s: float = float("-inf")


class OpenIdProvider:
    """The provider of an installation. Its configuration and keys are read when they are first needed.

    Keys are read again after `keys_lifetime_s`, and when a token names one that is not known (rotation). While the
    provider is unavailable, the keys that are known are used. A checked token is remembered for a minute.
    """

    def __init__(self, settings: OpenIdSettings, clock_s: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._clock_s = clock_s
        self._configuration: Claims = {}
        self._keys = _Keys()
        self._looked_at_s = float("-inf")
        """When a key that is not known was last looked for."""
        self._turn = asyncio.Lock()
        self._checked: OrderedDict[bytes, tuple[float, Claims]] = OrderedDict()
        verify: bool | str = str(settings.ca_file) if settings.ca_file is not None else True
        self._http = httpx.AsyncClient(verify=verify, timeout=settings.timeout_s, follow_redirects=False)

    async def close(self) -> None:
        """Close the connections to the provider."""
        await self._http.aclose()

    async def check(self, token: str) -> Claims:
        """Return the claims of an access token for the audience. Raises WrongCredentials, ProviderUnavailable."""
        digest = sha256(token.encode(errors="surrogatepass")).digest()
        until_s, claims = self._checked.get(digest, (0.0, {}))
        if self._clock_s() < until_s:
            return claims
        claims = await self._check(token, self.settings.audience)
        self._checked[digest] = min(self._clock_s() + _REMEMBER_S, float(claims["exp"])), claims
        if len(self._checked) > _REMEMBERED:
            self._checked.popitem(last=False)
        return claims

    async def authorization_url(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Return the address at which a browser's user signs in. Raises ProviderUnavailable."""
        chosen = self.settings
        parameters = {
            "response_type": "code",
            "client_id": chosen.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(chosen.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        endpoint = await self._endpoint("authorization_endpoint")
        return str(httpx.URL(endpoint).copy_merge_params(parameters))

    async def exchange(self, code: str, redirect_uri: str, nonce: str, verifier: str) -> Claims:
        """Return the claims of the ID token for a code. Raises WrongCredentials, ProviderUnavailable."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        chosen = self.settings
        headers = {}
        if chosen.client_secret:
            # Both are form-encoded before they are joined (RFC 6749, 2.3.1).
            pair = f"{quote_plus(chosen.client_id)}:{quote_plus(chosen.client_secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = chosen.client_id
        endpoint = await self._endpoint("token_endpoint")
        try:
            answer = await self._http.post(endpoint, data=form, headers=headers)
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ProviderUnavailable(f"{endpoint}: {error!r}") from None
        if answer.status_code != 200 or not isinstance(found, dict):
            raise WrongCredentials(f"the OpenID provider refused the code: {answer.text[:500]}")
        claims = await self._check(str(found.get("id_token", "")), chosen.client_id)
        if claims.get("nonce") != nonce:
            raise WrongCredentials("the ID token belongs to another sign-in (nonce)")
        return claims

    async def _check(self, token: str, audience: str) -> Claims:
        if len(token) > _MAX_TOKEN_BYTES:
            raise WrongCredentials(f"the token is longer than {_MAX_TOKEN_BYTES} bytes")
        try:
            try:
                found = jwt.decode(token, await self._known_keys(), algorithms=ALGORITHMS)
            except InvalidKeyIdError:
                found = jwt.decode(token, await self._newer_keys(), algorithms=ALGORITHMS)
            now_s = int(self._clock_s())
            jwt.JWTClaimsRegistry(
                now_s,
                self.settings.clock_skew_s,
                iss={"essential": True, "value": self.settings.issuer},
                aud={"essential": True, "value": audience},
                exp={"essential": True},
            ).validate(found.claims)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise WrongCredentials(f"the token is not valid: {error}") from None
        return found.claims

    async def _known_keys(self) -> KeySet:
        known = self._keys
        if known.keys is not None and self._clock_s() - known.asked_at_s < self.settings.keys_lifetime_s:
            return known.keys
        return await self._read_keys(known)

    async def _newer_keys(self) -> KeySet:
        known, now_s = self._keys, self._clock_s()
        if known.keys is not None and now_s - self._looked_at_s < _LOOK_FOR_KEYS_S:
            return known.keys
        self._looked_at_s = now_s
        return await self._read_keys(known)

    async def _read_keys(self, known: _Keys) -> KeySet:
        """Read the keys, unless somebody else has done so since `known`; the known ones if that fails."""
        async with self._turn:
            if self._keys is not known and self._keys.keys is not None:
                return self._keys.keys
            try:
                found = await self._get(await self._configured("jwks_uri"))
                keys = KeySet.import_key_set(cast("KeySetSerialization", found))
            except (ProviderUnavailable, JoseError, ValueError, TypeError, KeyError) as error:
                _PROVIDER.fails(error)
                self._configuration = {}
                self._keys = _Keys(known.keys, self._clock_s())
                if known.keys is not None:
                    return known.keys
                raise ProviderUnavailable(f"the keys of the OpenID provider cannot be read: {error}") from None
            _PROVIDER.holds()
            self._keys = _Keys(keys, self._clock_s())
            return keys

    async def _endpoint(self, name: str) -> str:
        async with self._turn:
            return await self._configured(name)

    async def _configured(self, name: str) -> str:
        """Return an address of the provider's configuration. Raises ProviderUnavailable."""
        if not self._configuration:
            found = await self._get(self.settings.issuer.rstrip("/") + _DISCOVERY)
            if found.get("issuer") != self.settings.issuer:
                raise ProviderUnavailable(
                    f"the OpenID provider calls itself {found.get('issuer')!r}, and CALLTAG_OIDC__ISSUER does not"
                )
            self._configuration = found
        address = self._configuration.get(name)
        if not isinstance(address, str):
            raise ProviderUnavailable(f"the configuration of the OpenID provider has no {name}")
        return address

    async def _get(self, address: str) -> dict[str, Any]:
        try:
            answer = await self._http.get(address)
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ProviderUnavailable(f"{address}: {error!r}") from None
        if not isinstance(found, dict):
            raise ProviderUnavailable(f"{address}: there is no JSON object")
        return found


def claim(claims: Claims, path: str) -> object:
    """Return the claim of that name, or the one at that path (`realm_access.roles`); None if there is none."""
    if path in claims:
        return claims[path]
    value: object = claims
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def words(value: object) -> Sequence[str]:
    """Return the texts of a claim that is a list, or one text with spaces between."""
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else ()
