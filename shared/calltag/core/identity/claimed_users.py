"""Users as tokens describe them: roles and features of the directory's users, and users whom only tokens name.

Each process has all of them, as it has the directory: they are kept in Redis, and read again when they change.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Container, Iterable, Mapping
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

    A number that has another user, and a supervisor who is none, are left out. Of several users with one number the
    first by name has it, so that all processes agree.
    """
    users = dict(base.users)
    numbers = set(base.by_number)
    for each in sorted(profiles, key=lambda profile: profile.user):
        if admits or UserId(each.user) in base.users:
            user = described_user(base, each, numbers)
            numbers.update(device.number for device in user.devices)
            users[user.id] = user
    supervisors = {user.id for user in users.values() if Role.SUPERVISOR in user.roles}
    return directory(
        tuple(replace(user, supervisors=user.supervisors & supervisors) for user in users.values()),
        agent_states=tuple(state for name, state in base.agent_states.items() if name not in SYSTEM_STATES),
        initial_state=base.initial_state.name,
    )


def described_user(base: Directory, profile: Profile, taken: Container[str]) -> User:
    """Return the user of a profile, without the numbers that are taken; one of `base` keeps its own devices."""
    user = base.users.get(UserId(profile.user)) or User(
        UserId(profile.user),
        "",
        profile.first_name,
        profile.last_name,
        devices=tuple(_device(number) for number in dict.fromkeys(profile.numbers) if number not in taken),
        supervisors=frozenset(map(UserId, profile.supervisors)),
    )
    return replace(
        user,
        roles=user.roles if profile.roles is None else profile.roles,
        features=user.features if profile.features is None else profile.features,
    )


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
        self._read: dict[bytes, tuple[bytes, Profile | None]] = {}
        """The records of Redis, with what they say: most are the same the next time."""
        self._version: bytes | None = b""
        self._turn = asyncio.Lock()

    def file_read(self, found: Directory) -> None:
        """Take over the users of the directory's file."""
        self._base = found
        self._live.become(described(found, self._profiles.values(), admits=self._admits))

    async def admit(self, profile: Profile) -> User:
        """Return the user of a profile, which every process knows within seconds.

        Raises WrongCredentials for a user who is not in the directory, if only those are admitted; StoreUnavailable.
        """
        user = UserId(profile.user)
        if user not in self._base.users and not self._admits:
            raise WrongCredentials(f"user {user} is not in the directory")
        if not profile.agrees(self._profiles.get(user)) or user not in self._live.users:
            async with self._turn:
                await self._write(profile)
                self._profiles[user] = profile
                self._live.become(self._live.with_user(self._now(profile)))
        return self._live.users[user]

    def _now(self, profile: Profile) -> User:
        """Return the user of a profile as the others are now; the next refresh looks at all together."""
        live = self._live
        taken = {number for number in profile.numbers if number in live.by_number}
        taken -= {number for number in taken if live.by_number[number].user.id == profile.user}
        user = described_user(self._base, profile, taken)
        known = {each for each in user.supervisors if each in live.users and Role.SUPERVISOR in live.users[each].roles}
        return replace(user, supervisors=frozenset(known))

    async def _write(self, profile: Profile) -> None:
        ends_ms = self._forget_s * 1_000
        own = ("HSET", self._key, profile.user, profile.model_dump_json())
        await self._client.execute_all([own, ("PEXPIRE", self._key, ends_ms)])
        await self._client.execute("SET", self._version_key, secrets.token_hex(8), "PX", ends_ms)

    async def run(self) -> None:
        """Read changes until cancelled; a refresh takes a tenth of the time at most."""
        while True:
            began_s = time.monotonic()
            try:
                await self.refresh()
            except StoreUnavailable as error:
                _SYNC.fails(error)
            else:
                _SYNC.holds()
            await asyncio.sleep(max(_LOOK_S, 9 * (time.monotonic() - began_s)))

    async def refresh(self) -> None:
        """Read the profiles if they have changed. Raises StoreUnavailable."""
        async with self._turn:
            version = cast("bytes | None", await self._client.execute("GET", self._version_key))
            if version == self._version:
                return
            fields = fields_of(await self._client.execute("HGETALL", self._key))
            # In a thread: with ten thousand users it takes some tenths of a second.
            base = self._base
            self._read, profiles, live = await asyncio.to_thread(self._rebuilt, fields, base)
            if base is not self._base:
                # The file was read meanwhile.
                live = described(self._base, profiles.values(), admits=self._admits)
            self._live.become(live)
            self._profiles, self._version = profiles, version
            old = [name for name, (_, profile) in self._read.items() if profile is None or self._is_old(profile)]
            if old:
                await self._client.execute("HDEL", self._key, *old)
                log.info("users_forgotten", users=len(old))

    def _rebuilt(
        self, fields: Mapping[bytes, bytes], base: Directory
    ) -> tuple[dict[bytes, tuple[bytes, Profile | None]], dict[UserId, Profile], Directory]:
        """Return the records with what they say, the profiles that count, and the directory of them."""
        before = self._read
        read = {
            name: before[name] if name in before and before[name][0] == raw else (raw, _parsed(raw))
            for name, raw in fields.items()
        }
        known = [profile for _, profile in read.values() if profile is not None and not self._is_old(profile)]
        profiles = {UserId(profile.user): profile for profile in known}
        return read, profiles, described(base, known, admits=self._admits)

    def _is_old(self, profile: Profile) -> bool:
        return self._clock_s() - profile.seen_at > self._forget_s


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
