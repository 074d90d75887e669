"""Users as tokens describe them: roles and features of the directory's users, and users whom only tokens name.

Each process has all of them, as it has the directory: they are kept in Redis, and read again when they change.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, cast
from uuid import NAMESPACE_URL, uuid5

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from calltag.core.domain.agent import SYSTEM_STATES
from calltag.core.domain.ids import DeviceId, UserId
from calltag.core.identity.directory import Device, Directory, Name, Role, User, directory
from calltag.core.identity.http_sessions import Login
from calltag.core.identity.login_attempts import WrongCredentials
from calltag.core.identity.openid import Claims, OpenIdProvider, claim, words
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.conditions import Condition

log = structlog.get_logger()
_LOOK_S: Final = 1.0
_RENEW_S: Final = 86_400
"""Age of the note of a user's last sign-in before it is written again."""
_SYNC: Final = Condition("users_not_read", over="users_read")


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Names of the claims that describe users; "" for those that tokens do not have.

    `prefix` is taken away from roles: with `calltag-`, `calltag-agent` is the role `agent`, and others are ignored.
    """

    user: str = "preferred_username"
    roles: str = ""
    prefix: str = ""
    features: str = ""
    devices: str = ""
    supervisors: str = ""


class Profile(BaseModel):
    """A token's description of a user. None: the token does not say, and the directory decides."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    user: Name
    roles: frozenset[Role] | None = None
    features: frozenset[str] | None = None
    numbers: tuple[str, ...] = ()
    supervisors: frozenset[str] = frozenset()
    first_name: str = ""
    last_name: str = ""
    seen_at: int = 0

    def agrees(self, other: "Profile | None") -> bool:
        """Return whether both have the same values, and were seen on the same day."""
        return (
            other is not None
            and self.model_copy(update={"seen_at": other.seen_at}) == other
            and abs(self.seen_at - other.seen_at) < _RENEW_S
        )


def profile_of(claims: Claims, names: ClaimNames, now_s: float) -> Profile:
    """Return the description of a user. Raises WrongCredentials."""
    user = claim(claims, names.user)
    roles = {
        each.removeprefix(names.prefix) for each in words(claim(claims, names.roles)) if each.startswith(names.prefix)
    }
    try:
        return Profile(
            user=cast("str", user),
            roles=frozenset(role for role in Role if role in roles) if names.roles else None,
            features=frozenset(words(claim(claims, names.features))) if names.features else None,
            numbers=tuple(words(claim(claims, names.devices))) if names.devices else (),
            supervisors=frozenset(words(claim(claims, names.supervisors))) if names.supervisors else frozenset(),
            first_name=str(claims.get("given_name", "")),
            last_name=str(claims.get("family_name", "")),
            seen_at=int(now_s),
        )
    except ValidationError:
        raise WrongCredentials(f"the claim {names.user} of the token is not the name of a user") from None


def described(base: Directory, profiles: Iterable[Profile], *, admits: bool) -> Directory:
    """Return the directory with the users of the profiles: others than those of `base` only if it `admits` them.

    A number that has another user, and a supervisor who is none, are left out.
    """
    users = dict(base.users)
    numbers = set(base.by_number)
    for each in profiles:
        known = users.get(UserId(each.user))
        if known is None and not admits:
            continue
        user = known or User(UserId(each.user), "", each.first_name, each.last_name, supervisors=_ids(each.supervisors))
        if known is None:
            devices = tuple(_device(number) for number in dict.fromkeys(each.numbers) if number not in numbers)
            numbers.update(device.number for device in devices)
            user = replace(user, devices=devices)
        users[user.id] = replace(
            user,
            roles=user.roles if each.roles is None else each.roles,
            features=user.features if each.features is None else each.features,
        )
    supervisors = {user.id for user in users.values() if Role.SUPERVISOR in user.roles}
    return directory(
        tuple(replace(user, supervisors=user.supervisors & supervisors) for user in users.values()),
        agent_states=tuple(state for name, state in base.agent_states.items() if name not in SYSTEM_STATES),
        initial_state=base.initial_state.name,
    )


def _ids(names: Iterable[str]) -> frozenset[UserId]:
    return frozenset(map(UserId, names))


def _device(number: str) -> Device:
    """Return the device of a number; its id is the same wherever it is derived."""
    return Device(DeviceId(str(uuid5(NAMESPACE_URL, f"tel:{number}"))), number)


class ClaimedUsers:
    """Keeps a directory up to date with its file and with the profiles in Redis.

    Profiles are a hash under `<prefix>:users`, by user; `<prefix>:users:version` is another text after each change. A
    user who did not sign in for `forget_s` seconds is removed.
    """

    def __init__(
        self,
        live: Directory,
        client: RedisClient,
        prefix: str,
        *,
        admits: bool,
        forget_s: int = 2_592_000,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._base = replace(live)
        self._client = client
        self._key, self._version_key = f"{prefix}:users", f"{prefix}:users:version"
        self._admits = admits
        self._forget_s = forget_s
        self._clock_s = clock_s
        self._profiles: dict[UserId, Profile] = {}
        self._version: bytes | None = b""

    def file_read(self, found: Directory) -> None:
        """Take over the users of the directory's file."""
        self._base = found
        self._apply()

    async def admit(self, profile: Profile) -> User:
        """Return the user of a profile, which every process knows within a second.

        Raises WrongCredentials for a user who is not in the directory, if only those are admitted; StoreUnavailable.
        """
        user = UserId(profile.user)
        if user not in self._base.users and not self._admits:
            raise WrongCredentials(f"user {user} is not in the directory")
        if not profile.agrees(self._profiles.get(user)):
            ends_ms = self._forget_s * 1_000
            own = ("HSET", self._key, user, profile.model_dump_json())
            await self._client.execute_all([own, ("PEXPIRE", self._key, ends_ms)])
            await self._client.execute("SET", self._version_key, secrets.token_hex(8), "PX", ends_ms)
            self._profiles[user] = profile
            self._apply()
        return self._live.users[user]

    async def run(self) -> None:
        """Read changes until cancelled."""
        while True:
            try:
                await self.refresh()
            except StoreUnavailable as error:
                _SYNC.fails(error)
            else:
                _SYNC.holds()
            await asyncio.sleep(_LOOK_S)

    async def refresh(self) -> None:
        """Read the profiles if they have changed. Raises StoreUnavailable."""
        version = cast("bytes | None", await self._client.execute("GET", self._version_key))
        if version == self._version:
            return
        fields = fields_of(await self._client.execute("HGETALL", self._key))
        found, old = {}, []
        for name, raw in fields.items():
            profile = _parsed(raw)
            if profile is None or self._clock_s() - profile.seen_at > self._forget_s:
                old.append(name)
            else:
                found[UserId(profile.user)] = profile
        if old:
            await self._client.execute("HDEL", self._key, *old)
            log.info("users_forgotten", users=len(old))
        self._profiles, self._version = found, version
        self._apply()

    def _apply(self) -> None:
        self._live.become(described(self._base, self._profiles.values(), admits=self._admits))


def _parsed(raw: Any) -> Profile | None:
    try:
        return Profile.model_validate(orjson.loads(raw))
    except (ValidationError, orjson.JSONDecodeError):
        return None


@dataclass(frozen=True, slots=True)
class TokenLogins:
    """Signs users in whose tokens an OpenID provider has issued."""

    provider: OpenIdProvider
    users: ClaimedUsers
    names: ClaimNames
    ends_with_token: bool = True
    """The session of a token ends when the token does."""

    async def log_in(self, token: str) -> Login:
        """Return the login of an access token. Raises WrongCredentials, LoginUnavailable, StoreUnavailable."""
        return await self.login_of(await self.provider.check(token))

    async def login_of(self, claims: Claims) -> Login:
        """Return the login of a valid token's claims. Raises WrongCredentials, StoreUnavailable."""
        user = await self.users.admit(profile_of(claims, self.names, time.time()))
        return Login(user, float(claims["exp"]) if self.ends_with_token else None)

    async def refresh(self) -> None:
        """Learn of the users who have signed in at other processes. Raises StoreUnavailable."""
        await self.users.refresh()
