"""Calls that belong together: a call and the consult calls that its parties began from it, directly or indirectly.

A relation stands on both calls, on the leg of the party who consults. `Family.settle` keeps both sides equal: it ends
relations of parties who left, and notes the states of the legs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from calltag.core.domain.call import Call, ConsultData, Leg, LegState, Relation
from calltag.core.domain.ids import CallId
from calltag.core.domain.user_data import UserData


class MergedData(StrEnum):
    """User data of the call into which a consult call is merged."""

    CONSULT_CHANGES = "consult-changes"
    """That of both; for a key that was changed on the consult call, the value there, else that of the main call."""
    MAIN_ONLY = "main-only"
    CONSULT_ONLY = "consult-only"
    MERGED_OVER_MAIN = "merged-over-main"
    """That of both; for a key that both have, the value of the main call."""
    MERGED_OVER_CONSULT = "merged-over-consult"
    """That of both; for a key that both have, the value of the consult call."""


def merged(main: UserData, consult: UserData, changed_keys: Iterable[str], rule: MergedData) -> UserData:
    """Return the user data of a call after a consult call was merged into it; keys of the main call come first."""
    match rule:
        case MergedData.MAIN_ONLY:
            return main
        case MergedData.CONSULT_ONLY:
            return consult
        case MergedData.MERGED_OVER_MAIN:
            return UserData({**main.values, **{key: consult.values[key] for key in consult.values if key not in main}})
        case MergedData.MERGED_OVER_CONSULT:
            return UserData({**main.values, **consult.values})
        case _:
            values = dict(main.values)
            for key in changed_keys:
                if key in consult:
                    values[key] = consult.values[key]
                else:
                    values.pop(key, None)
            return UserData(values)


def consult_user_data(main: UserData, rule: ConsultData) -> UserData:
    """Return the user data with which a consult call begins, before that of its request."""
    return UserData() if rule is ConsultData.SEPARATE else main


@dataclass(slots=True)
class Family:
    """The calls of one operation: `before` are those that were there, `calls` those after it."""

    before: Mapping[CallId, Call]
    calls: dict[CallId, Call] = field(init=False)

    def __post_init__(self) -> None:
        self.calls = dict(self.before)

    def put(self, call: Call) -> None:
        """Set a call."""
        self.calls[call.id] = call

    def settle(self) -> None:
        """Make both sides of each relation equal: end those with a leg that is gone, and note the states."""
        edges = {edge for call in self.calls.values() for leg in call.legs for edge in self._edges(call, leg)}
        for call in list(self.calls.values()):
            legs = [self._settled(call, leg, edges) for leg in call.legs]
            if any(new is not old for new, old in zip(legs, call.legs, strict=True)):
                self.put(replace(call, legs=tuple(legs)))

    def _edges(self, call: Call, leg: Leg) -> Iterable[tuple[CallId, str, CallId]]:
        """Return the valid relations of a leg to its consult calls: main call, number, consult call."""
        if not leg.live:
            return
        for each in leg.consults:
            there = self._leg(each.call, leg.number)
            if there is not None and there.live and there.parent is not None and there.parent.call == call.id:
                yield call.id, leg.number, each.call

    def _settled(self, call: Call, leg: Leg, edges: set[tuple[CallId, str, CallId]]) -> Leg:
        if not leg.related:
            return leg
        consults = tuple(self._noted(each, leg) for each in leg.consults if (call.id, leg.number, each.call) in edges)
        parent = leg.parent
        if parent is not None:
            parent = self._noted(parent, leg) if (parent.call, leg.number, call.id) in edges else None
        return (
            leg if (consults, parent) == (leg.consults, leg.parent) else replace(leg, consults=consults, parent=parent)
        )

    def _noted(self, relation: Relation, leg: Leg) -> Relation:
        there = self._leg(relation.call, leg.number)
        return relation if there is None else replace(relation, state=there.state)

    def _leg(self, call_id: CallId, number: str) -> Leg | None:
        call = self.calls.get(call_id)
        return None if call is None else call.leg_with(number)

    def relate(self, main: CallId, number: str, consult: CallId) -> None:
        """Note that a party of the main call consults by another call."""
        self._change(main, number, lambda leg: replace(leg, consults=(*leg.consults, Relation(consult, leg.state))))
        self._change(consult, number, lambda leg: replace(leg, parent=Relation(main, leg.state)))

    def _change(self, call_id: CallId, number: str, change: Callable[[Leg], Leg]) -> None:
        call = self.calls[call_id]
        self.put(replace(call, legs=tuple(change(leg) if leg.number == number else leg for leg in call.legs)))

    def set_state(self, call_id: CallId, number: str, state: LegState) -> None:
        """Set the state of a party's leg."""
        call = self.calls[call_id]
        self.put(call.with_legs([replace(leg, state=state) if leg.number == number else leg for leg in call.legs]))

    def merge(self, main: CallId, consult: CallId, rule: MergedData) -> None:
        """Move the parties of a consult call who are not on the main call there, and end the consult call.

        The calls by which they consult others begin from the main call then.
        """
        into, ended = self.calls[main], self.calls[consult]
        # A silent supervisor who comes as a party takes part from then on.
        joins = {leg.number for leg in ended.legs if leg.live and not leg.is_silent}
        there = {leg.number for leg in into.legs if leg.live and not (leg.is_silent and leg.number in joins)}
        moved = [replace(leg, parent=None) for leg in ended.legs if leg.live and leg.number not in there]
        by_number = {leg.number: leg for leg in moved}
        legs = [by_number.pop(leg.number, leg) for leg in into.legs]
        joined = into.with_legs([*legs, *by_number.values()])
        if not self._is_joint(main, consult):
            # A call that did not begin from another one has inherited nothing.
            changed_keys = tuple(ended.user_data.values) if ended.consult_data is None else ended.changed_keys
            data = merged(into.user_data, ended.user_data, changed_keys, rule)
            joined = joined.with_user_data(data, changed_keys)
        self.put(joined)
        self.put(ended.with_legs([replace(leg, state=LegState.RELEASED) for leg in ended.legs]))
        for leg in ended.legs:
            if leg.live and leg.consults:
                self._adopt(main, leg, is_there=leg.number in there)

    def _adopt(self, main: CallId, leg: Leg, *, is_there: bool) -> None:
        """Let the consult calls of a leg that moves begin from the main call."""
        if is_there:
            self._change(main, leg.number, lambda one: replace(one, consults=(*one.consults, *leg.consults)))
        for each in leg.consults:
            self._change(each.call, leg.number, lambda one: replace(one, parent=Relation(main, one.state)))

    def joint(self, call_id: CallId) -> list[CallId]:
        """Return the call, and those that have their user data jointly with it."""
        found = [call_id]
        for each in found:
            found += [
                other
                for other in sorted(self.calls[each].related)
                if other in self.calls and other not in found and self._is_joint(each, other)
            ]
        return found

    def _is_joint(self, one: CallId, other: CallId) -> bool:
        """Return whether one of two related calls is a consult call from the other, with joint user data."""
        pairs = ((one, other), (other, one))
        return any(
            self.calls[consult].consult_data is ConsultData.JOINT
            and any(leg.parent is not None and leg.parent.call == main for leg in self.calls[consult].legs)
            for main, consult in pairs
        )

    def changed(self) -> list[Call]:
        """Return the calls that differ from what they were."""
        return [call for call in self.calls.values() if self.before.get(call.id) != call]
