"""A real OpenID provider, and a person who signs in there."""

import base64
import hashlib
import json
import re
import secrets
from html import unescape
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from calltag.gateway.browser_login import CALLBACK_PATH
from parts.ports import free_port
from parts.processes import Program, program

CLIENTS: Final = Path(__file__).parents[1] / "clients"
AUDIENCE: Final = "https://calltag.example.com/api"
_NOWHERE: Final = "http://127.0.0.1:9"
_OWN_CALLBACK: Final = "http://127.0.0.1/tests"
SECRET: Final = "of the client"


class OpenIdServer:
    """The process of the provider; `ttl_s` is the lifetime of its tokens."""

    def __init__(self, folder: Path, *, ttl_s: int = 600) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._ttl_s = ttl_s
        self.process: Program | None = None

    def start(self, public_url: str = _NOWHERE, *, key: str = "first") -> None:
        """Start it, for a calltag at this address, with a new key of this name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        chosen = {"port": self.port, "callback": f"{public_url}{CALLBACK_PATH}", "ttl_s": self._ttl_s, "key": key}
        started = Program([program("node"), str(CLIENTS / "openid.mjs"), json.dumps(chosen)], self._folder)
        started.start(lambda: "ready" in started.text())
        self.process = started

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.output.unlink()

    @property
    def settings(self) -> dict[str, str]:
        """The variables of calltag."""
        return {
            "CALLTAG_OIDC__ISSUER": self.issuer,
            "CALLTAG_OIDC__AUDIENCE": AUDIENCE,
            "CALLTAG_OIDC__CLIENT_ID": "calltag",
            "CALLTAG_OIDC__CLIENT_SECRET": SECRET,
            "CALLTAG_OIDC__ROLES_CLAIM": "realm_access.roles",
            "CALLTAG_OIDC__ROLES_PREFIX": "calltag-",
            "CALLTAG_OIDC__FEATURES_CLAIM": "features",
            "CALLTAG_OIDC__DEVICES_CLAIM": "phones",
            "CALLTAG_OIDC__UNLISTED_USERS": "true",
        }

    def token(self, user: str, *, audience: str = AUDIENCE) -> str:
        """Return an access token of the user, by the flow of a desktop that has its own sign-in."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "client_id": "calltag",
            "response_type": "code",
            "redirect_uri": _OWN_CALLBACK,
            "scope": "openid profile",
            "resource": audience,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        with httpx.Client() as browser:
            end = sign_in(browser, str(httpx.URL(f"{self.issuer}/auth", params=asked)), user, _OWN_CALLBACK)
            code = parse_qs(urlsplit(end).query)["code"][0]
            form = {"grant_type": "authorization_code", "code": code, "redirect_uri": _OWN_CALLBACK,
                    "code_verifier": verifier, "resource": audience}  # fmt: skip
            answer = browser.post(f"{self.issuer}/token", data=form, auth=("calltag", SECRET))
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token


def sign_in(browser: httpx.Client, address: str, user: str, until: str) -> str:
    """Follow redirects from the address, and fill in the provider's forms; return the address that begins with `until`,
    which is not requested."""
    answer = browser.get(address)
    for _ in range(20):
        if answer.is_redirect:
            address = urljoin(str(answer.url), answer.headers["location"])
            if address.startswith(until):
                return address
            answer = browser.get(address)
            continue
        assert answer.status_code == 200, answer.text
        [action] = re.findall(r'<form[^>]* action="([^"]+)"', answer.text)
        prompt = re.findall(r'name="prompt" value="(\w+)"', answer.text)[0]
        form: dict[str, Any] = {"prompt": prompt, **({"login": user, "password": "any"} if prompt == "login" else {})}
        answer = browser.post(urljoin(str(answer.url), unescape(action)), data=form)
    raise AssertionError(f"the sign-in does not end: {answer.url}")
