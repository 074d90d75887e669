"""What the bench wants of a Bayeux server, and the event that it has it tell."""

from collections.abc import Sequence
from typing import Final, Protocol

from calltag.core.bayeux.events import Position
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import CallChanged, NotificationType
from calltag.core.domain.ids import CallId, ConnId, DeviceId, EventId, UserId
from calltag.core.domain.user_data import UserData
from calltag.core.identity.directory import User, directory
from calltag.notifier.event_views import EventViews

PUBLIC_URL: Final = "http://127.0.0.1:8080"
TIMEOUT_S: Final = 30
"""How long each server holds a connect."""
_ACCEPTED_AT_MS: Final = 1_700_000_063_000
_BEGAN_AT_MS: Final = 1_700_000_000_000
Group = Sequence[Sequence[int]]
"""Events that are published together: of each, the numbers of the users who are to be told."""


class BayeuxServer(Protocol):
    """A server in a process of its own; users are numbered from 0."""

    port: int
    path: str

    @property
    def pid(self) -> int:
        """The leader of the session of the server's processes."""
        ...

    @property
    def pids(self) -> Sequence[int]:
        """The leaders of all sessions of processes whose CPU counts."""
        ...

    def channel_of(self, user: int) -> str:
        """On which channel the user is told."""
        ...

    def cookie_of(self, user: int) -> str:
        """What the user's requests show, "" for nothing."""
        ...

    async def publish(self, first: int, group: Group) -> None:
        """Publish events, numbered on from `first`."""
        ...

    async def collect(self) -> None:
        """Let go of memory that is not used any more, as far as that can be asked for."""
        ...


def name_of(user: int) -> str:
    return f"agent-{user}"


def number_of(user: int) -> str:
    return str(20_000 + user)


def device_of(user: int) -> str:
    return f"631608b3-ceb1-472b-ba05-{user:012d}"


def event(number: int, users: Sequence[int], call: str, version: int) -> CallChanged:
    """The event of the documentation's page: a pair was attached to a call that is being set up.

    The parties are these users, and where it is one alone, somebody outside. A second pair has the event's number.
    """
    caller = _leg(users[0], LegState.DIALING)
    others = [_leg(user, LegState.RINGING) for user in users[1:]] or [Leg("15001", LegState.RINGING)]
    data = UserData({"AccountNumber": ("12345",), "bench": (f"bench-{number}",)})
    changed = Call(
        CallId(call), ConnId("007102719818001b"), CallType.INTERNAL, others[0].number, _BEGAN_AT_MS,
        (caller, *others), data, version,
    )  # fmt: skip
    event_id = EventId(f"7f3d0a1c{number:024x}")
    return CallChanged(event_id, NotificationType.ATTACHED_DATA_CHANGED, changed, changed.users(), _ACCEPTED_AT_MS)


def _leg(user: int, state: LegState) -> Leg:
    return Leg(number_of(user), state, DeviceId(device_of(user)), UserId(name_of(user)))


def message() -> dict[str, object]:
    """What a user is told of such an event, as it is in the page: the `data` of the message."""
    centre = directory((User(UserId(name_of(0)), ""),))
    told = EventViews(PUBLIC_URL, centre).published(
        UserId(name_of(0)), event(0, [0], "01RCC3N118B1V0SL8O7GK2LAES00000R", 2), Position(2), Position(1)
    )
    return dict(told.events[0].data)
