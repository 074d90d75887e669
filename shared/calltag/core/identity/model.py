"""Users, roles, features and devices of the contact centre."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Final

from calltag.core.domain.ids import DeviceId, UserId

VOICE_FEATURE: Final = "api-voice"
NOBODYS: Final = "-"
"""Credential of unknown users; equal to that of no session."""
_CREDENTIAL_LENGTH: Final = 32


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
    """One login. `password_hash` is an argon2 hash in the `$argon2id$...` form."""

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


@dataclass(frozen=True, slots=True)
class Directory:
    """All users of the contact centre, indexed by id, device and number."""

    users: Mapping[UserId, User]
    by_device: Mapping[DeviceId, DeviceOwner]
    by_number: Mapping[str, DeviceOwner]

    def credential_of(self, user: UserId) -> str:
        """Return the user's credential; NOBODYS for one who is not in the directory."""
        known = self.users.get(user)
        return known.credential if known else NOBODYS

    def oversees(self, user: UserId, other: UserId) -> bool:
        """Return whether the user may see the other's calls: as one of the other's supervisors or an administrator."""
        who, agent = self.users.get(user), self.users.get(other)
        return who is not None and agent is not None and (who.is_administrator or user in agent.supervisors)
