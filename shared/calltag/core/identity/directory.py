"""The directory of users and devices, and its file."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from argon2 import extract_parameters
from argon2.exceptions import InvalidHashError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from calltag.core.domain.agent import READY, SYSTEM_STATES, AgentState, UserState, WorkMode
from calltag.core.domain.ids import DeviceId, UserId

K = TypeVar("K")
VOICE_FEATURE: Final = "api-voice"
MONITORING_FEATURE: Final = "api-supervisor-monitoring"
NOBODYS: Final = "-"
"""Credential of unknown users; equal to that of no session."""
_CREDENTIAL_LENGTH: Final = 32
_FORM: Final = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\s:\x00-\x1f]+$")]
_Number = Annotated[str, Field(min_length=1, max_length=64)]


class Role(StrEnum):
    """Role of a user in the contact centre."""

    AGENT = "agent"
    SUPERVISOR = "supervisor"
    ADMINISTRATOR = "administrator"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class Device:
    """A phone: `number` is unique in the directory."""

    id: DeviceId
    number: str


@dataclass(frozen=True, slots=True)
class User:
    """One login. `password_hash` is an argon2 hash in the `$argon2id$...` form; "" for users without a password."""

    id: UserId
    password_hash: str = field(repr=False)
    first_name: str = ""
    last_name: str = ""
    roles: frozenset[Role] = frozenset()
    features: frozenset[str] = frozenset()
    devices: tuple[Device, ...] = ()
    supervisors: frozenset[UserId] = frozenset()

    @property
    def is_administrator(self) -> bool:
        return Role.ADMINISTRATOR in self.roles

    @property
    def credential(self) -> str:
        """Identifies the password: 128 bits of a digest of the stored hash; changes with the password.

        The salt of the hash is only in the directory, so passwords cannot be guessed from the digest.
        """
        return sha256(f"{self.id}\0{self.password_hash}".encode()).hexdigest()[:_CREDENTIAL_LENGTH]

    def device(self, device_id: DeviceId) -> Device | None:
        """Return the user's own device with that id, if any."""
        return next((device for device in self.devices if device.id == device_id), None)


@dataclass(frozen=True, slots=True)
class DeviceOwner:
    """A device and its user."""

    device: Device
    user: User


@dataclass(slots=True)
class Directory:
    """All users of the contact centre, by id, device, number and supervisor, and the states that agents can choose.

    An agent's session begins in the `initial_state`. A directory changes as a whole, when its file is read again.
    """

    users: Mapping[UserId, User]
    by_device: Mapping[DeviceId, DeviceOwner]
    by_number: Mapping[str, DeviceOwner]
    by_supervisor: Mapping[UserId, frozenset[UserId]]
    agent_states: Mapping[str, AgentState]
    initial_state: AgentState = READY
    administrators: tuple[UserId, ...] = ()

    def become(self, other: "Directory") -> None:
        """Take over all of another directory, for everybody who holds this one."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name))

    def with_user(self, user: User) -> "Directory":
        """Return the directory with one user more, or another in place of one; the others stay as they are.

        The user's devices must be no other's, and its supervisors be users with that role.
        """
        former = self.users.get(user.id)
        owners = [DeviceOwner(device, user) for device in user.devices]
        supervisors = user.supervisors if former is None else user.supervisors | former.supervisors
        changed = {
            each: self.overseen_by(each) - {user.id} | ({user.id} if each in user.supervisors else set())
            for each in supervisors
        }
        others = (each for each in self.administrators if each != user.id)
        return replace(
            self,
            users={**self.users, user.id: user},
            by_device={**_of_others(self.by_device, former), **{each.device.id: each for each in owners}},
            by_number={**_of_others(self.by_number, former), **{each.device.number: each for each in owners}},
            by_supervisor={**self.by_supervisor, **changed},
            administrators=(*others, user.id) if user.is_administrator else tuple(others),
        )

    def credential_of(self, user: UserId) -> str:
        """Return the user's credential; NOBODYS for one who is not in the directory."""
        known = self.users.get(user)
        return known.credential if known else NOBODYS

    def oversees(self, user: UserId, other: UserId) -> bool:
        """Return whether the user may see the other's calls: as one of the other's supervisors or an administrator."""
        who, agent = self.users.get(user), self.users.get(other)
        return who is not None and agent is not None and (who.is_administrator or user in agent.supervisors)

    def is_monitor(self, user: UserId) -> bool:
        """Return whether there are agents whose calls the user may listen to."""
        known = self.users.get(user)
        oversees = known is not None and (known.is_administrator or user in self.by_supervisor)
        return oversees and known is not None and MONITORING_FEATURE in known.features

    def may_monitor(self, user: UserId, agent: UserId) -> bool:
        """Return whether the user may listen to the agent's calls."""
        known = self.users.get(user)
        return (
            known is not None and user != agent and MONITORING_FEATURE in known.features and self.oversees(user, agent)
        )

    def monitors_of(self, agent: UserId) -> Sequence[UserId]:
        """Return the users who may listen to the agent's calls."""
        known = self.users.get(agent)
        overseers = {*known.supervisors, *self.administrators} if known is not None else ()
        return sorted(each for each in overseers if self.may_monitor(each, agent))

    def overseen_by(self, user: UserId) -> frozenset[UserId]:
        """Return the users whom this one supervises."""
        return self.by_supervisor.get(user, frozenset())


def _of_others(owners: Mapping[K, DeviceOwner], user: User | None) -> Mapping[K, DeviceOwner]:
    if user is None or not user.devices:
        return owners
    return {key: each for key, each in owners.items() if each.user.id != user.id}


def _argon2(text: str) -> str:
    try:
        extract_parameters(text)
    except InvalidHashError:
        raise ValueError("not an argon2 hash") from None
    return text


_Hash = Annotated[str, AfterValidator(_argon2)]


class DirectoryError(ValueError):
    """The file is not a valid directory; the message names the file, the location and the problem."""


class _DeviceEntry(BaseModel):
    model_config = _FORM
    id: Name
    number: _Number


class _UserEntry(BaseModel):
    model_config = _FORM
    id: Name
    password_hash: _Hash = ""
    first_name: str = ""
    last_name: str = ""
    roles: frozenset[Role] = frozenset({Role.AGENT})
    features: frozenset[str] = frozenset()
    supervisors: frozenset[Name] = frozenset()
    devices: tuple[_DeviceEntry, ...] = ()


class _AgentStateEntry(BaseModel):
    model_config = _FORM
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
    id: Name
    display_name: Annotated[str, Field(min_length=1, max_length=128)]
    state: Literal[UserState.READY, UserState.NOT_READY] = UserState.NOT_READY
    work_mode: WorkMode | None = None
    reason: str | None = None


class _File(BaseModel):
    model_config = _FORM
    users: tuple[_UserEntry, ...]
    agent_states: tuple[_AgentStateEntry, ...] = ()
    initial_agent_state: str = READY.name


def directory(
    users: tuple[User, ...],
    source: str = "the directory",
    *,
    agent_states: tuple[AgentState, ...] = (),
    initial_state: str = READY.name,
) -> Directory:
    """Return a directory of these users; `agent_states` are those beside the ones that every installation has.

    Raises DirectoryError for a duplicate id, number or name, for a supervisor without that role, and for an initial
    state that is not known.
    """
    states = {**SYSTEM_STATES, **{each.name: each for each in agent_states}}
    _require_unique([*SYSTEM_STATES, *(each.name for each in agent_states)], "agent state", source)
    if initial_state not in states:
        raise DirectoryError(f"{source}: initial_agent_state is not known; known are {', '.join(states)}")
    owners = [DeviceOwner(device, user) for user in users for device in user.devices]
    _require_unique([user.id for user in users], "user id", source)
    _require_unique([owner.device.id for owner in owners], "device id", source)
    _require_unique([owner.device.number for owner in owners], "device number", source)
    by_id = {user.id: user for user in users}
    _require_supervisors(by_id, source)
    return Directory(
        by_id,
        {owner.device.id: owner for owner in owners},
        {owner.device.number: owner for owner in owners},
        {
            supervisor: frozenset(each.id for each in users if supervisor in each.supervisors)
            for supervisor in {name for each in users for name in each.supervisors}
        },
        states,
        states[initial_state],
        tuple(user.id for user in users if user.is_administrator),
    )


def read_directory(path: Path) -> Directory:
    """Read the directory from a file. Raises DirectoryError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DirectoryError(f"{path} cannot be read: {error}") from None
    return parse_directory(text, str(path))


def demo_directory() -> Directory:
    """Return the demo contact centre: alice, bob, carol, dave, admin and the switch, all with the password `demo`."""
    file = resources.files("calltag.core.identity").joinpath("demo.toml")
    return parse_directory(file.read_text(encoding="utf-8"), "demo.toml")


def parse_directory(text: str, source: str) -> Directory:
    """Parse a directory from TOML; `source` names it in errors. Raises DirectoryError."""
    try:
        file = _File.model_validate(_tables(text, source))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
        raise DirectoryError("\n".join(f"{source}: {_explained(each)}" for each in wrong)) from None
    return directory(
        tuple(_user(entry) for entry in file.users),
        source,
        agent_states=tuple(AgentState(**entry.model_dump()) for entry in file.agent_states),
        initial_state=file.initial_agent_state,
    )


def _tables(text: str, source: str) -> dict[str, object]:
    try:
        # Editors on Windows write an invisible byte order mark before the text.
        return tomllib.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        raise DirectoryError(f"{source} is not TOML that can be read: it is nested too deep") from None
    except ValueError as error:  # a TOMLDecodeError, or a number too long for Python
        raise DirectoryError(f"{source} is not TOML: {error}") from None


def _explained(error: ErrorDetails) -> str:
    return f"{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}"


def _user(entry: _UserEntry) -> User:
    return User(
        id=UserId(entry.id),
        password_hash=entry.password_hash,
        first_name=entry.first_name,
        last_name=entry.last_name,
        roles=entry.roles,
        features=entry.features,
        supervisors=frozenset(map(UserId, entry.supervisors)),
        devices=tuple(Device(DeviceId(device.id), device.number) for device in entry.devices),
    )


def _require_supervisors(users: Mapping[UserId, User], source: str) -> None:
    for user in users.values():
        for name in sorted(user.supervisors):
            named = users.get(name)
            if named is None:
                raise DirectoryError(f"{source}: supervisor {name} of user {user.id} is not a user")
            if Role.SUPERVISOR not in named.roles:
                raise DirectoryError(f"{source}: supervisor {name} of user {user.id} lacks the role supervisor")


def _require_unique(names: list[UserId] | list[DeviceId] | list[str], what: str, source: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DirectoryError(f"{source}: {what} {name} is there twice")
        seen.add(name)
