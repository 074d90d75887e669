"""A call, its legs, and the transitions of their states."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import zip_longest
from typing import Final, Literal, TypeAlias

from calltag.core.domain.ids import CallId, ConnId, DeviceId, UserId
from calltag.core.domain.monitoring import Monitoring, MonitoringScope
from calltag.core.domain.user_data import UserData

_FEWEST: Final = 2
"""Parties without whom there is no call."""


class LegState(StrEnum):
    """State of one party on a call, by its name in the API."""

    DIALING = "Dialing"
    RINGING = "Ringing"
    ESTABLISHED = "Established"
    HELD = "Held"
    RELEASED = "Released"


EndReason: TypeAlias = Literal["silent", "operator"]
"""Reason for the end of a call other than the switch's report: that it was silent for too long, or an operator."""


class CallType(StrEnum):
    """Type of a call, by its name in the API."""

    INTERNAL = "Internal"
    INBOUND = "Inbound"
    OUTBOUND = "Outbound"
    CONSULT = "Consult"
    UNKNOWN = "Unknown"


class RecordingState(StrEnum):
    """State of the recording of a call, by its name in the API."""

    STOPPED = "Stopped"
    RECORDING = "Recording"
    PAUSED = "Paused"


class ConsultData(StrEnum):
    """User data of a consult call."""

    INHERITED = "inherited"
    """Copied from the call from which it began, and separate from then on."""
    SEPARATE = "separate"
    """Only that of the request."""
    JOINT = "joint"
    """That of the call from which it began: a change of one is a change of both."""


@dataclass(frozen=True, slots=True)
class Relation:
    """Another call of the same party, and the state of the party's leg there."""

    call: CallId
    state: LegState


@dataclass(frozen=True, slots=True)
class Leg:
    """One party of a call. A party outside the contact centre has neither device nor user.

    `left` is True if the party left the call while it went on for others. `consults` are the calls that the party began
    from this one, to consult others; on such a call `parent` is the call from which it began. `monitoring` is that of a
    supervisor who is on the call because of another party.
    """

    number: str
    state: LegState
    device: DeviceId | None = None
    user: UserId | None = None
    muted: bool = False
    left: bool = False
    consults: tuple[Relation, ...] = ()
    parent: Relation | None = None
    monitoring: Monitoring | None = None

    @property
    def is_silent(self) -> bool:
        """True for a supervisor whom the other parties do not see."""
        return self.monitoring is not None and self.monitoring.is_silent

    @property
    def related(self) -> tuple[Relation, ...]:
        """Return the relations to the party's other calls."""
        return self.consults if self.parent is None else (*self.consults, self.parent)

    @property
    def live(self) -> bool:
        return self.state is not LegState.RELEASED


@dataclass(frozen=True, slots=True)
class Call:
    """A call with its parties. Every change increments `version`; `began_at_ms` is Unix time.

    `ani` is the number of the caller, if the call came from outside; `recording` is None where nothing is recorded.

    Of a consult call, `consult_data` is the rule for its user data, and `changed_keys` are the keys of user data that
    were changed since it began.
    """

    id: CallId
    conn_id: ConnId
    type: CallType
    dnis: str
    began_at_ms: int
    legs: tuple[Leg, ...]
    user_data: UserData = field(default_factory=UserData)
    version: int = 0
    consult_data: ConsultData | None = None
    changed_keys: tuple[str, ...] = ()
    ani: str = ""
    recording: RecordingState | None = None

    @property
    def related(self) -> frozenset[CallId]:
        """Return the ids of the calls to which its legs are related."""
        return frozenset(each.call for leg in self.legs for each in leg.related)

    def leg_with(self, number: str) -> Leg | None:
        """Return the leg of a number."""
        return next((leg for leg in self.legs if leg.number == number), None)

    @property
    def released(self) -> bool:
        """True once no party is left on the call."""
        return not any(leg.live for leg in self.legs)

    def with_user_data(self, data: UserData, keys: Iterable[str] = ()) -> "Call":
        """Return the call with other user data; a consult call notes the keys that changed, and `keys`, which were
        set."""
        if self.consult_data is None:
            return replace(self, user_data=data)
        before, after = self.user_data.values, data.values
        changed = (key for key in {**before, **after} if before.get(key) != after.get(key))
        return replace(self, user_data=data, changed_keys=tuple(dict.fromkeys((*self.changed_keys, *keys, *changed))))

    def users(self) -> tuple[UserId, ...]:
        """Return the users whose devices are parties, each once, in the order of the legs."""
        return tuple(dict.fromkeys(leg.user for leg in self.legs if leg.user is not None))

    def is_open_to(self, user: UserId) -> bool:
        """Return whether the user is a party: on the call now, or at its end once it is over."""
        return any(leg.user == user and self._has(leg) for leg in self.legs)

    def _has(self, leg: Leg) -> bool:
        return leg.live or (self.released and not leg.left)

    def legs_of(self, user: UserId) -> tuple[Leg, ...]:
        """Return the live legs of the user; without any, the last leg."""
        own = tuple(leg for leg in self.legs if leg.user == user)
        return tuple(leg for leg in own if leg.live) or own[-1:]

    def leg_of(self, user: UserId) -> Leg | None:
        """Return the first of those legs; None if the user was never on the call."""
        return next(iter(self.legs_of(user)), None)

    def others(self, leg: Leg) -> Iterator[Leg]:
        """Iterate over the other parties that a party sees: those on the call now, or at its end once it is over."""
        return (other for other in self.legs if other is not leg and self._has(other) and not other.is_silent)

    def monitors(self, leg: Leg) -> Iterator[Leg]:
        """Iterate over the legs of the supervisors on the call now who monitor this party."""
        return (each for each in self.legs if each.live and each.monitoring and each.monitoring.number == leg.number)

    @property
    def parties(self) -> int:
        """Number of the parties on the call now, without silent supervisors."""
        return sum(leg.live and not leg.is_silent for leg in self.legs)

    def with_leg(self, old: Leg, new: Leg) -> "Call":
        """Return the call with one leg replaced."""
        return self.with_legs([new if leg is old else leg for leg in self.legs])

    def joined_by(self, leg: Leg) -> "Call":
        """Return the call with another leg, or with another one for that number."""
        return self.with_legs([*{**{each.number: each for each in self.legs}, leg.number: leg}.values()])

    def with_legs(self, legs: Sequence[Leg]) -> "Call":
        """Return the call with its legs replaced: the known ones in their order, then new ones; sets `left`.

        Supervisors leave with the party whom they monitor, or with the last party.
        """
        legs = _without_idle_monitors(legs)
        is_over = not any(leg.live for leg in legs)

        def noted(before: Leg | None, now: Leg) -> Leg:
            left = not now.live and (not is_over or (before is not None and before.left))
            return now if now.left == left else replace(now, left=left)

        earlier = zip_longest(self.legs, legs)
        return replace(self, legs=tuple(noted(before, now) for before, now in earlier if now is not None))


def _without_idle_monitors(legs: Sequence[Leg]) -> Sequence[Leg]:
    """Release the supervisors whose agent left, if that is the end of the monitoring, or with whom no party is left."""
    if all(leg.monitoring is None for leg in legs):
        return legs
    parties = {leg.number for leg in legs if leg.live and not leg.is_silent}

    def stays(leg: Leg) -> bool:
        if leg.monitoring is None or not leg.live:
            return True
        return bool(parties) and (leg.monitoring.scope is MonitoringScope.CALL or leg.monitoring.number in parties)

    return [leg if stays(leg) else replace(leg, state=LegState.RELEASED) for leg in legs]


def answered(call: Call, leg: Leg) -> Call:
    """Establish the leg that answers, and all dialing ones, unless it is a supervisor who answers."""
    if leg.monitoring is not None:
        return moved(call, leg, LegState.ESTABLISHED)
    through = {LegState.DIALING: LegState.ESTABLISHED}
    return call.with_legs(
        [
            replace(each, state=LegState.ESTABLISHED if each is leg else through.get(each.state, each.state))
            for each in call.legs
        ]
    )


def moved(call: Call, leg: Leg, state: LegState) -> Call:
    """Return the call with one leg in another state."""
    return call.with_leg(leg, replace(leg, state=state))


def hung_up(call: Call, leg: Leg) -> Call:
    """Release the leg; end the call if only one other party is left."""
    after = moved(call, leg, LegState.RELEASED)
    return ended(call) if after.parties < _FEWEST and not leg.is_silent else after


def ended(call: Call) -> Call:
    """Release all legs."""
    return call.with_legs([replace(leg, state=LegState.RELEASED) for leg in call.legs])


def parties_changed(call: Call, changed_legs: tuple[Leg, ...], mute_unchanged: Collection[str] = ()) -> Call:
    """Apply a report of the switch on some parties: known numbers change state and mute, new numbers join."""
    changed = {leg.number: leg for leg in changed_legs}
    pairs = [(leg, changed.pop(leg.number, leg)) for leg in call.legs]
    known = [
        replace(leg, state=now.state, muted=(leg if leg.number in mute_unchanged else now).muted) for leg, now in pairs
    ]
    return call.with_legs([*known, *changed.values()])
