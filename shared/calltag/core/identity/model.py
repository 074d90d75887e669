"""Who may do what: users, roles, features and devices, as the services see them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Final

from calltag.core.domain.ids import DeviceId, UserId

VOICE_FEATURE: Final = "api-voice"
NOBODYS: Final = "-"
"""A credential with which nothing ever began."""
_CREDENTIAL_LENGTH: Final = 32


class Role(StrEnum):
    """What a user is in the contact centre."""

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
    """One login. `password_hash` is an argon2 hash in the usual `$argon2id$...` form."""

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
        """What a login began with: 128 bits of a digest of the stored hash, another one once the password is new.

        The hash has a salt that only the directory knows, so who reads the digest cannot try passwords on it.
        """
        return sha256(f"{self.id}\0{self.password_hash}".encode()).hexdigest()[:_CREDENTIAL_LENGTH]

    def device(self, device_id: DeviceId) -> Device | None:
        """The user's own device with that id, if any."""
        return next((device for device in self.devices if device.id == device_id), None)


@dataclass(frozen=True, slots=True)
class DeviceOwner:
    """A device together with the user whose device it is."""

    device: Device
    user: User


@dataclass(frozen=True, slots=True)
class Directory:
    """All users of the contact centre; found by id, by device or by number."""

    users: Mapping[UserId, User]
    by_device: Mapping[DeviceId, DeviceOwner]
    by_number: Mapping[str, DeviceOwner]

    def credential_of(self, user: UserId) -> str:
        """The user's credential; NOBODYS for one who is not in the directory (any more)."""
        known = self.users.get(user)
        return known.credential if known else NOBODYS

    def oversees(self, user: UserId, other: UserId) -> bool:
        """Whether the user may see the other's calls: as one of the other's supervisors, or as an administrator."""
        who, agent = self.users.get(user), self.users.get(other)
        return who is not None and agent is not None and (who.is_administrator or user in agent.supervisors)
