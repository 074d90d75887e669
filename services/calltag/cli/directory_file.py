"""Work of `calltag directory`: hash passwords, check and list the users of a file, generate one."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from argon2 import extract_parameters
from rich.table import Table

from calltag.cli.output import Finding, ok, warn
from calltag.core.identity.directory import (
    MONITORING_FEATURE,
    VOICE_FEATURE,
    Directory,
    DirectoryError,
    Role,
    User,
    demo_directory,
    read_directory,
)
from calltag.core.identity.passwords import HASHER, MAX_PASSWORD_BYTES
from calltag.core.settings import load_settings

_MOST_NAMED: Final = 5


def hash_of(password: str) -> str:
    """Return the hash of a password. Raises DirectoryError."""
    size = len(password.encode())
    if not 0 < size <= MAX_PASSWORD_BYTES:
        raise DirectoryError(f"the password has {size} bytes; it may have 1 to {MAX_PASSWORD_BYTES}")
    return HASHER.hash(password)


def wanted_directory(file: Path | None) -> Directory:
    """Read the file, or the one that the settings name. Raises DirectoryError, SettingsError."""
    if file is not None:
        return read_directory(file)
    settings = load_settings().directory
    if settings.file is not None:
        return read_directory(settings.file)
    if settings.demo:
        return demo_directory()
    raise DirectoryError("name a file, or set CALLTAG_DIRECTORY__FILE")


def findings(directory: Directory) -> Iterator[Finding]:
    """Yield what is in a valid directory, and what is probably a mistake."""
    users = [*directory.users.values()]
    roles = Counter(role.value for user in users for role in user.roles)
    counted = ", ".join(f"{count} with the role {role}" for role, count in sorted(roles.items()))
    yield ok(f"{len(users)} users ({counted}), {len(directory.by_device)} devices")
    callers = [user for user in users if Role.SWITCH not in user.roles]
    yield from _named(
        [user for user in callers if VOICE_FEATURE not in user.features], f"without the feature {VOICE_FEATURE}"
    )
    yield from _named(
        [user for user in callers if Role.AGENT in user.roles and not user.devices], "agents without a device"
    )
    yield from _named(
        [user for user in users if MONITORING_FEATURE in user.features and not directory.is_monitor(user.id)],
        f"{MONITORING_FEATURE}, and no agent to monitor",
    )
    shared = Counter(user.password_hash for user in users)
    yield from _named([user for user in users if shared[user.password_hash] > 1], "the same hash as another user")
    yield from _named([user for user in users if _is_weak(user)], "a hash of less memory than is recommended")
    if Role.SWITCH.value not in roles:
        yield warn("no user has the role switch: the telephony switch cannot report calls")


def _is_weak(user: User) -> bool:
    return extract_parameters(user.password_hash).memory_cost < HASHER.memory_cost


def _named(users: Sequence[User], text: str) -> Iterator[Finding]:
    """Yield a warning about users, the first ones by name; none about nobody."""
    if users:
        names = ", ".join(user.id for user in users[:_MOST_NAMED])
        more = f" and {len(users) - _MOST_NAMED} more" if len(users) > _MOST_NAMED else ""
        yield warn(f"{text}: {names}{more}")


def rows(directory: Directory) -> Sequence[Mapping[str, object]]:
    """Return the users, as objects for JSON."""
    return [
        {
            "id": user.id,
            "name": f"{user.first_name} {user.last_name}".strip(),
            "roles": sorted(user.roles),
            "features": sorted(user.features),
            "numbers": [device.number for device in user.devices],
            "supervisors": sorted(user.supervisors),
        }
        for user in directory.users.values()
    ]


def table_of(users: Sequence[Mapping[str, object]]) -> Table:
    """Return the users as a table."""
    table = Table(*(users[0] if users else ("id",)), box=None)
    for user in users:
        table.add_row(*(" ".join(map(str, each)) if isinstance(each, list) else str(each) for each in user.values()))
    return table


def generated(agents: int, team: int, first_number: int, password: str) -> Iterator[str]:
    """Yield the lines of a file with agents, a supervisor for each team, and the switch. Raises DirectoryError."""
    stored, teams = hash_of(password), -(-agents // team)
    width = len(str(agents))
    voice = f'["{VOICE_FEATURE}"]'
    yield from _user("switch", stored, '["switch"]', "[]")
    for number in range(teams):
        both = f'["{VOICE_FEATURE}", "{MONITORING_FEATURE}"]'
        phone = first_number + agents + number
        yield from _user(f"supervisor-{number:0{width}d}", stored, '["agent", "supervisor"]', both, phone)
    for number in range(agents):
        yield from _user(f"agent-{number:0{width}d}", stored, '["agent"]', voice, first_number + number)
        yield f'supervisors = ["supervisor-{number // team:0{width}d}"]'


def _user(name: str, stored: str, roles: str, features: str, phone: int | None = None) -> Iterator[str]:
    devices = [f'devices = [{{ id = "device-of-{name}", number = "{phone}" }}]'] if phone is not None else []
    yield from ("", "[[users]]", f'id = "{name}"', f'password_hash = "{stored}"')
    yield from (f"roles = {roles}", f"features = {features}", *devices)
