"""Sign-in of browsers at an OpenID provider: the authorization code flow with PKCE (OpenID Connect Core 1.0, 3.1)."""

import hmac
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, cast

import orjson
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from calltag.core.identity.authentication import Authenticator
from calltag.core.identity.claimed_users import TokenLogins
from calltag.core.identity.http_sessions import CookieFlags, values_of
from calltag.core.identity.login_attempts import LoginUnavailable, WrongCredentials
from calltag.core.store.client import RedisClient
from calltag.gateway.errors import BackendUnavailable, NotAuthenticated, ParameterMissing

log = structlog.get_logger()
LOGIN_PATH: Final = "/oidc/login"
CALLBACK_PATH: Final = "/oidc/callback"
_COOKIE: Final = "CALLTAG_SIGN_IN"
_TIME_S: Final = 600
"""Time for a user to sign in."""
_HERE: Final = re.compile(r"/(?![/\\])[!-~]{0,2000}")
"""Path of this server: a browser takes `//host` and `/\\host` for another one."""


@dataclass(frozen=True, slots=True)
class BrowserLogin:
    """Begins and completes sign-ins. One in progress is in Redis, for ten minutes, and its browser has a cookie of it:
    another browser cannot complete it."""

    tokens: TokenLogins
    authenticator: Authenticator
    client: RedisClient
    prefix: str
    cookies: CookieFlags
    public_url: str

    async def begin(self, return_to: str) -> Response:
        """Redirect to the provider. Raises LoginUnavailable, StoreUnavailable."""
        state, nonce, verifier = (secrets.token_urlsafe(48) for _ in range(3))
        url = await self.tokens.provider.authorization_url(self._callback, state, nonce, verifier)
        record = orjson.dumps({"nonce": nonce, "verifier": verifier, "return_to": return_to})
        await self.client.execute("SET", self._key(state), record, "EX", _TIME_S)
        response = RedirectResponse(url, 302)
        response.headers.append("set-cookie", f"{self._cookie(state)}; Max-Age={_TIME_S}")
        return response

    async def complete(self, state: str, code: str, shown: list[str]) -> Response:
        """Begin a session, and redirect to where the sign-in began; `shown` are the browser's cookies.

        Raises WrongCredentials, LoginUnavailable, StoreUnavailable.
        """
        if not any(hmac.compare_digest(each.encode(), state.encode()) for each in values_of(_COOKIE, shown)):
            raise WrongCredentials("this browser did not begin the sign-in, or took longer than ten minutes")
        raw = cast("bytes | None", await self.client.execute("GETDEL", self._key(state)))
        if raw is None:
            raise WrongCredentials("the sign-in is over: begin again")
        record = orjson.loads(raw)
        claims = await self.tokens.provider.exchange(code, self._callback, record["nonce"], record["verifier"])
        known = await self.authenticator.begin_session(await self.tokens.login_of(claims))
        log.info("signed_in", user=known.user.id, by="openid")
        response = RedirectResponse(record["return_to"], 302)
        response.headers.append("set-cookie", known.set_cookie or "")
        response.headers.append("set-cookie", f"{self._cookie('')}; Max-Age=0")
        return response

    @property
    def _callback(self) -> str:
        return f"{self.public_url}{CALLBACK_PATH}"

    def _cookie(self, state: str) -> str:
        # Lax: the provider's redirect is a navigation from another site, and must carry it.
        return CookieFlags(self.cookies.secure, "lax").set_cookie(_COOKIE, state)

    def _key(self, state: str) -> str:
        return f"{self.prefix}:sign-in:{sha256(state.encode(errors='replace')).hexdigest()}"


def browser_login_routes(login: BrowserLogin) -> APIRouter:
    """Return the routes that browsers navigate to."""
    router = APIRouter(include_in_schema=False)

    @router.get(LOGIN_PATH)
    async def begin(request: Request) -> Response:
        return_to = request.query_params.get("return_to", "/")
        try:
            return await login.begin(return_to if _HERE.fullmatch(return_to) else "/")
        except LoginUnavailable as error:
            raise BackendUnavailable(str(error)) from None

    @router.get(CALLBACK_PATH)
    async def complete(request: Request) -> Response:
        given = request.query_params
        if "error" in given:
            words = ": ".join(given[each] for each in ("error", "error_description") if each in given)
            raise NotAuthenticated(f"the OpenID provider refused the sign-in: {words[:500]}", challenge=False)
        for each in ("state", "code"):
            if not given.get(each):
                raise ParameterMissing(f"{each} is missing: begin at {LOGIN_PATH}")
        try:
            return await login.complete(given["state"], given["code"], request.headers.getlist("cookie"))
        except WrongCredentials as error:
            raise NotAuthenticated(str(error), challenge=False) from None
        except LoginUnavailable as error:
            raise BackendUnavailable(str(error)) from None

    return router
