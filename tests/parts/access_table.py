"""Who may do what: the one table that the tests of access go by, and docs/security.md shows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from argon2 import PasswordHasher

from calltag.core.domain.ids import DeviceId, UserId
from calltag.core.identity.directory import MONITORING_FEATURE, VOICE_FEATURE, Device, Directory, Role, User, directory
from calltag.gateway.operations import CALL_OPERATIONS, DEVICE_OPERATIONS

JSON = dict[str, Any]
PASSWORD: Final = "a-password-of-the-tests"
CALL: Final = "C1"
ALICES_DEVICE: Final = "device-of-alice"

ROLES: Final[Mapping[str, tuple[str, str] | None]] = {
    "nobody": None,
    "wrong password": ("alice", "wrong"),
    "party": ("alice", PASSWORD),
    "other agent": ("bob", PASSWORD),
    "supervisor": ("carol", PASSWORD),
    "other supervisor": ("erin", PASSWORD),
    "administrator": ("admin", PASSWORD),
    "switch": ("switch", PASSWORD),
    "without feature": ("dave", PASSWORD),
}
"""User and password of each role. The call, and the device, are alice's; carol is her supervisor, erin is bob's."""

KNOWN: Final = tuple(ROLES)[2:]
"""The roles that have proven who they are."""


def contact_centre() -> Directory:
    """The users of the table."""
    stored = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    voice = frozenset({VOICE_FEATURE})
    monitoring = frozenset({VOICE_FEATURE, MONITORING_FEATURE})

    def user(name: str, number: str, *roles: Role, features: frozenset[str] = voice, under: str = "") -> User:
        return User(
            id=UserId(name),
            password_hash=stored,
            roles=frozenset(roles),
            features=features,
            devices=(Device(DeviceId(f"device-of-{name}"), number),),
            supervisors=frozenset({UserId(under)} if under else ()),
        )

    return directory(
        (
            user("alice", "15000", Role.AGENT, under="carol"),
            user("bob", "15001", Role.AGENT, under="erin"),
            user("carol", "15002", Role.AGENT, Role.SUPERVISOR, features=monitoring),
            user("dave", "15003", Role.AGENT, features=frozenset()),
            user("admin", "15004", Role.ADMINISTRATOR, features=monitoring),
            user("erin", "15005", Role.AGENT, Role.SUPERVISOR, features=monitoring),
            user("switch", "15006", Role.SWITCH, features=frozenset()),
        )
    )


YES: Final = "yes"
NO: Final = "401 (20)"
OTHERS: Final = "403 (5)"
LACKS: Final = "403 (3)"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route answers each of KNOWN; who is nobody gets 401, or all that is `public`."""

    outcomes: tuple[str, ...]
    public: bool = False
    body: JSON | None = None

    def of(self, role: str) -> str:
        """What the role is answered."""
        if self.public:
            return YES
        return self.outcomes[KNOWN.index(role)] if role in KNOWN else NO


_ALL: Final = (YES,) * 7
_OWNER: Final = (YES, OTHERS, OTHERS, OTHERS, YES, OTHERS, OTHERS)
_PUBLIC: Final = Rule(_ALL, public=True)
_START: Final = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
_DIAL: Final = {"operationName": "Dial", "destination": {"phoneNumber": "15001"}}
_OVERSEEN: Final = (YES, OTHERS, YES, OTHERS, YES, OTHERS, OTHERS)
_CHANGE: Final = (YES, OTHERS, OTHERS, OTHERS, YES, LACKS, LACKS)

_TO_SOMEBODY: Final[JSON] = {"destination": {"phoneNumber": "0895678"}}
PARAMETERS: Final[Mapping[str, JSON]] = {
    "AttachUserData": {"userData": {"more": "1"}},
    "UpdateUserData": {"userData": {"more": "2"}},
    "DeleteUserDataPair": {"key": "secret"},
    "SendDtmf": {"digits": "1"},
    "SingleStepTransfer": _TO_SOMEBODY,
    "SingleStepConference": _TO_SOMEBODY,
    "InitiateTransfer": _TO_SOMEBODY,
    "InitiateConference": _TO_SOMEBODY,
    "SwapCalls": {"otherCallUri": "/calls/another"},
    "RemoveParticipantFromConference": {"participant": "0891234"},
    "SetCallDisposition": {"disposition": "sold"},
}

MONITORING: Final = frozenset({"ListenIn", "Coach", "BargeIn"})


def device_operation(name: str) -> JSON:
    """The body of an operation on a device."""
    parameters = {"destination": {"phoneNumber": "15001"}, "targetDeviceUri": ALICES_DEVICE, "callUri": CALL}
    return {"operationName": name, "disposition": "sold", **parameters}


def operation(name: str) -> JSON:
    """The body of an operation on a call."""
    return {"operationName": name, **PARAMETERS.get(name, {})}


ROUTES: Final[Mapping[tuple[str, str], Rule]] = {
    ("GET", "/openapi.json"): _PUBLIC,
    ("GET", "/docs"): _PUBLIC,
    ("GET", "/docs/files/{name}"): _PUBLIC,
    ("GET", "/"): _PUBLIC,
    ("GET", "/api/v2/diagnostics/version"): _PUBLIC,
    ("GET", "/api/v2/me"): Rule(_ALL),
    ("POST", "/api/v2/me"): Rule((YES,) * 5 + (LACKS, LACKS), body=_START),
    ("GET", "/api/v2/me/channels"): Rule(_ALL),
    ("GET", "/api/v2/me/channels/voice"): Rule(_ALL),
    ("POST", "/api/v2/me/channels/voice"): Rule((YES,) * 5 + (LACKS, LACKS), body={"operationName": "NotReady"}),
    ("POST", "/api/v2/me/devices/{device_id}"): Rule(_OWNER, body={"operationName": "DoNotDisturbOn"}),
    ("POST", "/api/v2/devices/{device_id}"): Rule(_OWNER, body={"operationName": "DoNotDisturbOn"}),
    ("POST", "/api/v2/logout"): Rule(_ALL),
    ("GET", "/api/v2/users/{user_id}"): Rule(_OVERSEEN),
    ("GET", "/api/v2/users/{user_id}/calls"): Rule(_OVERSEEN),
    ("GET", "/api/v2/calls"): Rule(_ALL),
    ("GET", "/api/v2/calls/{call_id}"): Rule(_OVERSEEN),
    **dict.fromkeys(
        (
            ("GET", f"/api/v2/{path}")
            for path in (
                "contacts",
                "contacts/{user_id}",
                "services",
                "services/{name}",
                "settings/agent-states",
                "features/{name}",
                "voice-environments/default",
                "groups",
                "me/groups",
                "me/interactions",
                "me/chats",
                "me/emails",
                "me/workitems",
                "me/workbins",
                "workbins",
                "me/skills",
                "me/settings",
            )
        ),
        Rule(_ALL),
    ),
    ("GET", "/api/v2/me/devices/{device_id}/settings/{kind}"): Rule(_OWNER),
    ("GET", "/internal-api/me/settings"): Rule(_ALL),
    ("GET", "/internal-api/contact-center"): Rule(_ALL),
    ("POST", "/internal-api/operations"): Rule(_ALL, body={"operationName": "SendUserEvent"}),
    ("GET", "/api/v2/me/devices"): Rule(_ALL),
    ("GET", "/api/v2/me/devices/{device_id}"): Rule(_OWNER),
    ("GET", "/api/v2/devices/{device_id}"): Rule(_OWNER),
    ("POST", "/api/v2/me/devices/{device_id}/calls"): Rule(_OWNER, body=_DIAL),
    ("POST", "/api/v2/devices/{device_id}/calls"): Rule(_OWNER, body=_DIAL),
    ("GET", "/api/v2/me/calls"): Rule(_ALL),
    ("GET", "/api/v2/me/calls/{call_id}"): Rule(_OVERSEEN),
    ("POST", "/api/v2/me/calls/{call_id}"): Rule(_CHANGE, body=operation("AttachUserData")),
    ("POST", "/api/v2/switch/events"): Rule(
        (LACKS,) * 5 + (YES, LACKS), body={"eventId": "e1", "eventType": "CallEnded", "id": "no-call-of-anybody"}
    ),
}
"""Routes of the gateway, with alice's device and alice's call for the parameters."""

COMETD_PATHS: Final = ("/genesys/cometd", "/api/v2/notifications")
COMETD_ROUTES: Final = frozenset(path + more for path in COMETD_PATHS for more in ("", "/{suffix:path}"))

OPERATIONS: Final[Mapping[str, tuple[str, ...]]] = dict.fromkeys(CALL_OPERATIONS.names(), _CHANGE)
"""What each of KNOWN is answered when it wants an operation on alice's call."""

_MONITORS: Final = (LACKS, LACKS, YES, OTHERS, YES, LACKS, LACKS)
DEVICES: Final[Mapping[str, tuple[str, ...]]] = {
    name: _MONITORS if name in MONITORING else _OWNER for name in DEVICE_OPERATIONS.names()
}
"""What each of KNOWN is answered when it wants an operation on alice's device, or on its own to monitor alice's."""

_EVERYBODY: Final = frozenset(KNOWN)
_ADMINISTRATOR: Final = frozenset({"administrator"})
_OVERSEERS: Final = frozenset({"supervisor", "administrator"})
_OVERSEERS_OF_BOB: Final = frozenset({"other supervisor", "administrator"})

CHANNELS: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(
        ("/v2/me/calls", "/v2/me/devices", "/v2/me/chats", "/v2/me/*", "/v2/me/**", "/v2/*", "/v2/**", "/v2/users/**",
         "/**", "/*", "/notifications/services", "/notifications/*", "/notifications/**", "/service/**", "/service/x"),
        _EVERYBODY,
    ),
    **dict.fromkeys(("/v2/users/alice/calls", "/v2/users/alice/*", "/v2/users/alice/**"), _OVERSEERS),
    **dict.fromkeys(("/v2/users/bob/calls", "/v2/users/bob/*", "/v2/users/bob/**"), _OVERSEERS_OF_BOB),
    "/v2/calls": _ADMINISTRATOR,
}  # fmt: skip
"""Who may subscribe to what; nobody may to anything else. A pattern delivers what the subscriber may have of it."""

NEVER: Final = (
    "/meta/**", "/meta/*", "/meta/connect", "/v2", "/v2/me", "/v2/users",
    "/v2/users/*", "/v2/users/*/calls", "/v2/users/**/calls", "/v2/users/alice", "/v2/users/alice/devices",
    "/v2/users/alice/calls/*", "/v2/users/alice/calls/**", "/v2/users/alice/calls/C1", "/v2/users/no-one/calls",
    "/v2/calls/*", "/v2/calls/C1", "/v2/me/calls/*", "/v2/me/calls/C1", "/v2/me/calls/", "/v2/users/alice/calls/",
    "//v2/users/alice/calls", "/v2//users/alice/calls", "/V2/users/alice/calls", "/v2/USERS/alice/calls",
    "/v2/users/ALICE/calls", "/v2/users/Alice/calls", "/v2/users/alice/CALLS", "/v2/users/%61lice/calls",
    "/v2/users/%2561lice/calls", "/v2/users/alice%2Fcalls", "/v2/users/bob/../alice/calls", "/v2/users/./alice/calls",
    "/v2/me/../users/alice/calls", "/v2/users/alice;x/calls", "/v2/users/alice/calls;x", "/v2/users/alice/calls?x",
    "/v2/users/\uff41lice/calls", "/v2/users/a\u200blice/calls", "/v2/users/alic\u0435/calls",
    "/v2/users/alice\u0000/calls", "/v2/users/alice\n/calls", " /v2/users/alice/calls", "/v2/users/alice/calls ",
    "/v2/users/alice /calls", "v2/users/alice/calls", "/v2/users/(alice|bob)/calls", "/v2/users/{id}/calls",
    "/v2/users/.+/calls", "/v2/users/alice,bob/calls", "\\v2\\users\\alice\\calls", "",
)  # fmt: skip
"""Channels, patterns and tricks that are refused to everybody, the administrator too."""


def as_page() -> str:
    """The tables of docs/security.md."""
    return "\n\n".join("\n".join(table) for table in (_routes(), _operations(), _device_operations(), _channels()))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _routes() -> Iterator[str]:
    yield _row("route", *ROLES)
    yield _row(*["---"] * (1 + len(ROLES)))
    for (method, path), rule in ROUTES.items():
        yield _row(f"`{method} {path}`", *map(rule.of, ROLES))


def _operations() -> Iterator[str]:
    yield _row("operation on the call", *KNOWN)
    yield _row(*["---"] * (1 + len(KNOWN)))
    for name, outcomes in OPERATIONS.items():
        yield _row(name, *outcomes)


def _device_operations() -> Iterator[str]:
    yield _row("operation on the device", *KNOWN)
    yield _row(*["---"] * (1 + len(KNOWN)))
    for name, outcomes in DEVICES.items():
        yield _row(f"{name}, from an own device" if name in MONITORING else name, *outcomes)


def _channels() -> Iterator[str]:
    yield _row("channel or pattern", *KNOWN)
    yield _row(*["---"] * (1 + len(KNOWN)))
    for channel, allowed in CHANNELS.items():
        yield _row(f"`{channel}`", *(YES if role in allowed else "no" for role in KNOWN))
