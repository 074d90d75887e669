"""A call and its legs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import zip_longest

from calltag.core.domain.ids import CallId, ConnId, DeviceId, UserId
from calltag.core.domain.user_data import UserData


class LegState(StrEnum):
    """The state of one party on a call, by the name that clients see."""

    DIALING = "Dialing"
    RINGING = "Ringing"
    ESTABLISHED = "Established"
    HELD = "Held"
    RELEASED = "Released"


class CallType(StrEnum):
    """What kind of call it is, by the name that clients see."""

    INTERNAL = "Internal"
    INBOUND = "Inbound"
    OUTBOUND = "Outbound"
    CONSULT = "Consult"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Leg:
    """One party of a call. A party outside the contact centre has neither device nor user.

    `left` says that the party left the call while it went on for others.
    """

    number: str
    state: LegState
    device: DeviceId | None = None
    user: UserId | None = None
    muted: bool = False
    left: bool = False

    @property
    def live(self) -> bool:
        return self.state is not LegState.RELEASED


@dataclass(frozen=True, slots=True)
class Call:
    """A call with its parties. `version` rises by one with every change; `began_at_ms` is Unix time."""

    id: CallId
    conn_id: ConnId
    type: CallType
    dnis: str
    began_at_ms: int
    legs: tuple[Leg, ...]
    user_data: UserData = field(default_factory=UserData)
    version: int = 0

    @property
    def released(self) -> bool:
        """Whether the call is over: no party is left on it."""
        return not any(leg.live for leg in self.legs)

    def users(self) -> tuple[UserId, ...]:
        """The users whose devices are parties, each once, in the order of the legs."""
        return tuple(dict.fromkeys(leg.user for leg in self.legs if leg.user is not None))

    def is_open_to(self, user: UserId) -> bool:
        """Whether the user is a party: on the call now, or, once it is over, to its end."""
        return any(leg.user == user and self._has(leg) for leg in self.legs)

    def _has(self, leg: Leg) -> bool:
        return leg.live or (self.released and not leg.left)

    def legs_of(self, user: UserId) -> tuple[Leg, ...]:
        """The legs on which the user is on the call; once there is none, the last one that was."""
        own = tuple(leg for leg in self.legs if leg.user == user)
        return tuple(leg for leg in own if leg.live) or own[-1:]

    def leg_of(self, user: UserId) -> Leg | None:
        """The first of those legs, if the user was ever on the call."""
        return next(iter(self.legs_of(user)), None)

    def others(self, leg: Leg) -> Iterator[Leg]:
        """The other parties that are still on the call, or, once it is over, that were to its end."""
        return (other for other in self.legs if other is not leg and self._has(other))

    def with_leg(self, old: Leg, new: Leg) -> "Call":
        """The same call with one leg replaced."""
        return self.with_legs([new if leg is old else leg for leg in self.legs])

    def with_legs(self, legs: Sequence[Leg]) -> "Call":
        """The same call with its legs as they are now, in the order of those before; new ones follow."""
        is_over = not any(leg.live for leg in legs)

        def noted(before: Leg | None, now: Leg) -> Leg:
            left = not now.live and (not is_over or (before is not None and before.left))
            return now if now.left == left else replace(now, left=left)

        earlier = zip_longest(self.legs, legs)
        return replace(self, legs=tuple(noted(before, now) for before, now in earlier if now is not None))
