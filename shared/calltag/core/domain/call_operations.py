"""Effects of operations on calls: on the one that an operation names, and on those that belong together with it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, assert_never

from calltag.core.domain.call import (
    Call,
    CallType,
    ConsultData,
    EndReason,
    Leg,
    LegState,
    answered,
    ended,
    hung_up,
    moved,
    parties_changed,
)
from calltag.core.domain.events import CallChanged, NotificationType
from calltag.core.domain.family import Family, consult_user_data
from calltag.core.domain.ids import CallId, UserId, event_id
from calltag.core.domain.monitoring import Monitoring
from calltag.core.domain.operations import (
    Answer,
    AttachUserData,
    CallEnded,
    CallOperation,
    CallsMerged,
    CallStarted,
    ClearCall,
    CompleteAction,
    CompleteConference,
    CompleteTransfer,
    DeleteUserData,
    DeleteUserDataPair,
    Dial,
    FamilyAction,
    Hangup,
    Hold,
    InitiateAction,
    InitiateConference,
    InitiateTransfer,
    LegAction,
    MonitorCall,
    MuteCall,
    MuteMonitoredUser,
    PartyChanged,
    RecordingChanged,
    Reject,
    RemoveParticipantFromConference,
    Retrieve,
    SendDtmf,
    SetCallDisposition,
    SingleStepAction,
    SingleStepConference,
    SingleStepTransfer,
    SwapCalls,
    SwitchMonitoring,
    UnmuteCall,
    UnmuteMonitoredUser,
    UpdateUserData,
    UserDataAction,
)
from calltag.core.domain.outcome import CallLimits, Outcome, RefusedError
from calltag.core.domain.resource_view import TOLERATED, capabilities
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import UserData, stored_pairs


@dataclass(frozen=True, slots=True)
class _Told:
    """An event about a call; with `by_leg`, users whose own leg changed get StatusChange."""

    call: CallId
    kind: NotificationType
    by_leg: bool = False


_DATA: Final = NotificationType.ATTACHED_DATA_CHANGED
_Plan: TypeAlias = Sequence[_Told]


@dataclass(frozen=True, slots=True)
class CallTurn:
    """The application of one operation to a family of calls."""

    operation: CallOperation
    limits: CallLimits
    family: Family

    def run(self, call: Call | None) -> Outcome:
        """Return the outcome for the call that the operation names. Raises RefusedError."""
        # The record of a related call may be gone.
        self.family.settle()
        call = call and self.family.calls[call.id]
        action = self.operation.action
        if isinstance(action, Dial | CallStarted):
            return self._outcome(self._begin(call, action))
        if isinstance(action, MonitorCall):
            return self._outcome(self._monitor(call, action.monitor))
        if call is None:
            raise RefusedError(StatusCode.NOT_FOUND, f"there is no call {self.operation.call_id}")
        if isinstance(action, SetCallDisposition):
            return self._disposed(call, action)
        if call.released:
            raise RefusedError(StatusCode.INVALID_STATE, f"call {call.id} is already released")
        match action:
            case CallEnded(reason=reason):
                self.family.put(ended(call))
                return self._outcome([_Told(call.id, NotificationType.STATUS_CHANGE)], reason)
            case PartyChanged():
                plan = self._change_parties(call, action)
            case CallsMerged():
                plan = self._merge(call, action)
            case RecordingChanged(state=state):
                self.family.put(replace(call, recording=state))
                plan = [_Told(call.id, NotificationType.CALL_RECORDING_STATE_CHANGE)]
            case AttachUserData() | UpdateUserData() | DeleteUserDataPair() | DeleteUserData():
                self._acting_leg(call)
                plan = self._change_user_data(call, action)
            case _:
                plan = self._by_client(call, self._acting_leg(call), action)
        return self._outcome(plan)

    def _change_parties(self, call: Call, action: PartyChanged) -> _Plan:
        after = parties_changed(call, action.legs, action.mute_unchanged)
        self._check_parties(len(after.legs), len(call.legs))
        self.family.put(after)
        joined = len(after.legs) > len(call.legs)
        return [_Told(call.id, NotificationType.PARTICIPANTS_UPDATED if joined else NotificationType.STATUS_CHANGE)]

    def _by_client(self, call: Call, leg: Leg, action: LegAction) -> _Plan:
        match action:
            case Answer():
                after = answered(call, leg)
            case Hold():
                after = moved(call, leg, LegState.HELD)
            case Retrieve():
                after = moved(call, leg, LegState.ESTABLISHED)
            case MuteCall() | UnmuteCall():
                after = call.with_leg(leg, replace(leg, muted=isinstance(action, MuteCall)))
            case ClearCall() if leg.state is not LegState.RINGING:
                after = ended(call)
            case Hangup() | ClearCall() | Reject():
                after = hung_up(call, leg)
            case SendDtmf():
                return [_Told(call.id, NotificationType.DTMF_SENT)]
            case SwitchMonitoring(state=state):
                now = leg.monitoring and replace(leg.monitoring, state=state)
                return self._set_monitoring(call, leg, now, NotificationType.PARTICIPANTS_UPDATED)
            case MuteMonitoredUser() | UnmuteMonitoredUser():
                now = leg.monitoring and replace(leg.monitoring, user_muted=isinstance(action, MuteMonitoredUser))
                return self._set_monitoring(call, leg, now, NotificationType.MONITORED_USER_MUTED_STATE_CHANGE)
            case _:
                return self._with_others(call, leg, action)
        self.family.put(after)
        return [_Told(call.id, NotificationType.STATUS_CHANGE)]

    def _with_others(self, call: Call, leg: Leg, action: FamilyAction) -> _Plan:
        match action:
            case InitiateTransfer() | InitiateConference():
                return self._initiate(call, leg, action)
            case CompleteTransfer() | CompleteConference():
                return self._complete(call, leg, action)
            case SingleStepTransfer() | SingleStepConference():
                return self._single_step(call, leg, action)
            case SwapCalls():
                return self._swap(call, leg, action)
            case RemoveParticipantFromConference():
                return self._remove(call, leg, action)
            case _ as never:
                assert_never(never)

    # -- monitoring ----------------------------------------------------------------------------------------------------

    def _set_monitoring(self, call: Call, leg: Leg, now: Monitoring | None, kind: NotificationType) -> _Plan:
        """Change the part that a supervisor has in the call."""
        self.family.put(call.with_leg(leg, replace(leg, monitoring=now)))
        return [_Told(call.id, kind, by_leg=kind is NotificationType.PARTICIPANTS_UPDATED)]

    def _monitor(self, call: Call | None, monitor: Leg) -> _Plan:
        """Let a call ring at a supervisor, unless the agent has left it; one who monitors already does so as asked."""
        if call is None or monitor.monitoring is None or monitor.monitoring.number not in _live(call):
            return []
        there = call.leg_with(monitor.number)
        if there is not None and there.live:
            if there.monitoring is None or there.monitoring == monitor.monitoring:
                return []
            return self._set_monitoring(call, there, monitor.monitoring, NotificationType.PARTICIPANTS_UPDATED)
        after = call.joined_by(monitor)
        self._check_parties(len(after.legs), len(call.legs))
        self.family.put(after)
        return [_Told(call.id, NotificationType.PARTICIPANTS_UPDATED, by_leg=True)]

    def _let_monitors_join(self) -> None:
        """Let each call that an agent joined by the operation ring at the supervisors of the agent too."""
        for monitor in self.operation.monitors:
            for call in self.family.changed():
                number = monitor.monitoring.number if monitor.monitoring is not None else None
                was = self.family.before.get(call.id)
                if number not in _live(call) or number in _live(was) or monitor.number in _live(call):
                    continue
                after = call.joined_by(monitor)
                if len(after.legs) <= self.limits.max_parties:
                    self.family.put(after)

    # -- user data -----------------------------------------------------------------------------------------------------

    def _change_user_data(self, call: Call, action: UserDataAction) -> _Plan:
        match action:
            case AttachUserData(pairs=pairs):
                data = call.user_data.attach(pairs)
            case UpdateUserData(pairs=pairs):
                data = call.user_data.update(pairs)
            case DeleteUserDataPair(key=key):
                data = call.user_data.without(key)
            case DeleteUserData():
                data = UserData()
            case _ as never:
                assert_never(never)
        # An update is reported even if it sets the present values; one without values, or a removal of nothing, is not.
        sets_values = isinstance(action, UpdateUserData) and stored_pairs(action.pairs) > 0
        if data == call.user_data and not sets_values:
            return []
        keys = [key for key, _ in action.pairs] if isinstance(action, AttachUserData | UpdateUserData) else ()
        return self._set_user_data(call, data, keys)

    def _set_user_data(self, call: Call, data: UserData, keys: Iterable[str]) -> _Plan:
        """Set the user data of a call, and of those that have it jointly; `keys` were set, if not changed."""
        self._check_size(data, call.user_data)
        plan = []
        for each in self.family.joint(call.id):
            self.family.put(self.family.calls[each].with_user_data(data, keys))
            plan.append(_Told(each, NotificationType.ATTACHED_DATA_CHANGED))
        return plan

    def _disposed(self, call: Call, action: SetCallDisposition) -> Outcome:
        """Set the disposition, also of a released call, whose parties get no event then."""
        if not any(leg.user == self.operation.sender for leg in call.legs) and not self.operation.as_administrator:
            raise RefusedError(StatusCode.NO_PERMISSION, f"call {call.id} is not a call of yours")
        pairs = (*action.pairs, (action.key, action.disposition))
        data = call.user_data.update(pairs)
        if not call.released:
            return self._outcome(self._set_user_data(call, data, dict(pairs)))
        self._check_size(data, call.user_data)
        return Outcome(replace(call, user_data=data, version=call.version + 1))

    # -- calls that belong together ------------------------------------------------------------------------------------

    def _initiate(self, call: Call, leg: Leg, action: InitiateAction) -> _Plan:
        """Hold the call, and begin a consult call from it."""
        _check_target(call, leg, action.target)
        if len(leg.consults) >= self.limits.max_consults:
            raise RefusedError(StatusCode.INVALID_STATE, f"the call has {len(leg.consults)} consult calls already")
        if len(self.family.calls) >= self.limits.max_related:
            raise RefusedError(StatusCode.INVALID_STATE, f"{len(self.family.calls)} calls belong together already")
        if action.consult in self.family.calls:
            raise RefusedError(StatusCode.ALREADY_EXISTS, f"there is a call {action.consult} already")
        rule = self.limits.rules.consult_data
        begun = consult_user_data(call.user_data, rule)
        data = begun.update(action.pairs)
        self._check_size(data, begun)
        consult = Call(
            id=action.consult,
            conn_id=action.conn_id,
            type=CallType.CONSULT,
            dnis=action.target.number,
            began_at_ms=self.operation.accepted_at_ms,
            legs=(),
            user_data=data,
            consult_data=rule,
            changed_keys=tuple(dict(action.pairs)),
        )
        dialing = Leg(leg.number, LegState.DIALING, leg.device, leg.user)
        self.family.put(moved(call, leg, LegState.HELD))
        self.family.put(consult.with_legs([dialing, action.target]))
        self.family.relate(call.id, leg.number, consult.id)
        plan = [_Told(call.id, NotificationType.STATUS_CHANGE), _Told(consult.id, NotificationType.STATUS_CHANGE)]
        if rule is ConsultData.JOINT and action.pairs:
            joint = self._set_user_data(self.family.calls[call.id], data, ())
            plan += [each for each in joint if each.call != consult.id]
        return plan

    def _complete(self, call: Call, leg: Leg, action: CompleteAction) -> _Plan:
        """Join the parties of two related calls, with or without the one who consults."""
        main, consult = _pair(call, leg, action)
        is_conference = isinstance(action, CompleteConference)
        here = self.family.calls[consult].leg_with(leg.number)
        if is_conference and (here is None or here.state not in {LegState.ESTABLISHED, LegState.HELD}):
            raise RefusedError(
                StatusCode.INVALID_STATE, f"{action.name} is not possible before call {consult} is answered"
            )
        before = self.family.calls[main]
        self.family.merge(main, consult, self.limits.rules.merged_data)
        self._check_size(self.family.calls[main].user_data, before.user_data)
        self._check_parties(len(self.family.calls[main].legs), len(before.legs))
        self.family.set_state(main, leg.number, LegState.ESTABLISHED if is_conference else LegState.RELEASED)
        joined = _Told(main, NotificationType.PARTICIPANTS_UPDATED, by_leg=True)
        over = _Told(consult, NotificationType.STATUS_CHANGE)
        return [*([over, joined] if is_conference else [joined, over]), *self._data_told(before)]

    def _merge(self, call: Call, action: CallsMerged) -> _Plan:
        """Join the parties of two calls, as the switch reports."""
        consult = self.family.calls.get(action.merged)
        if consult is call:
            raise RefusedError(StatusCode.OUT_OF_RANGE, "mergedId: a call cannot be merged with itself")
        if consult is None or consult.released:
            reason = "there is no" if consult is None else "already released is"
            code = StatusCode.NOT_FOUND if consult is None else StatusCode.INVALID_STATE
            raise RefusedError(code, f"{reason} call {action.merged}")
        self.family.merge(call.id, consult.id, self.limits.rules.merged_data)
        if action.legs:
            self.family.put(parties_changed(self.family.calls[call.id], action.legs, action.mute_unchanged))
        joined = _Told(call.id, NotificationType.PARTICIPANTS_UPDATED, by_leg=True)
        return [joined, _Told(consult.id, NotificationType.STATUS_CHANGE), *self._data_told(call)]

    def _single_step(self, call: Call, leg: Leg, action: SingleStepAction) -> _Plan:
        """Let another party ring on the call, in place of the sender or beside."""
        _check_target(call, leg, action.target)
        left = moved(call, leg, LegState.RELEASED) if isinstance(action, SingleStepTransfer) else call
        after = left.joined_by(action.target)
        self._check_parties(len(after.legs), len(call.legs))
        self.family.put(after)
        plan = [_Told(call.id, NotificationType.PARTICIPANTS_UPDATED, by_leg=True)]
        if action.pairs:
            after = self.family.calls[call.id]
            plan += self._set_user_data(after, after.user_data.update(action.pairs), dict(action.pairs))
        return plan

    def _swap(self, call: Call, leg: Leg, action: SwapCalls) -> _Plan:
        """Retrieve the held one of two related calls, and hold the other one."""
        other = next((each for each in leg.related if each.call == action.other), None)
        if other is None:
            raise RefusedError(StatusCode.INVALID_STATE, f"call {call.id} and call {action.other} are not related")
        if (leg.state is LegState.HELD) == (other.state is LegState.HELD):
            raise RefusedError(
                StatusCode.INVALID_STATE, f"{action.name} takes one call that is held, and one that is not"
            )
        held, active = (call.id, other.call) if leg.state is LegState.HELD else (other.call, call.id)
        self.family.set_state(held, leg.number, LegState.ESTABLISHED)
        self.family.set_state(active, leg.number, LegState.HELD)
        return [_Told(held, NotificationType.STATUS_CHANGE), _Told(active, NotificationType.STATUS_CHANGE)]

    def _remove(self, call: Call, leg: Leg, action: RemoveParticipantFromConference) -> _Plan:
        """Release the leg of another party."""
        other = call.leg_with(action.number)
        if other is None or not other.live or other.is_silent or other.number == leg.number:
            raise RefusedError(StatusCode.OUT_OF_RANGE, f"participant: {action.number} is no other party of the call")
        self.family.put(moved(call, other, LegState.RELEASED))
        return [_Told(call.id, NotificationType.PARTICIPANTS_UPDATED, by_leg=True)]

    def _data_told(self, before: Call) -> _Plan:
        """Return the event about user data that changed as two calls became one."""
        changed = self.family.calls[before.id].user_data != before.user_data
        return [_Told(before.id, NotificationType.ATTACHED_DATA_CHANGED)] if changed else []

    def _acting_leg(self, call: Call) -> Leg:
        """Return the leg on which a client's operation acts: the first permitted one whose state allows it.

        Refuses senders who are not on the call, and operations that no leg allows.
        """
        name = self.operation.action.name
        live = [leg for leg in call.legs if leg.live]
        own = [leg for leg in live if self.operation.sender is not None and leg.user == self.operation.sender]
        acting = own or (live if self.operation.as_administrator else [])
        if not acting:
            raise RefusedError(StatusCode.NO_PERMISSION, f"call {call.id} is not a call of yours")
        able = next((leg for leg in acting if name in (*capabilities(call, leg), *TOLERATED.get(leg.state, ()))), None)
        if able is None:
            possible = ", ".join(capabilities(call, acting[0]))
            raise RefusedError(
                StatusCode.INVALID_STATE,
                f"{name} is not possible while the call is {acting[0].state}; possible: {possible}",
            )
        return able

    def _begin(self, call: Call | None, action: Dial | CallStarted) -> _Plan:
        if call is not None:
            raise RefusedError(StatusCode.ALREADY_EXISTS, f"there is a call {call.id} already")
        self._check_parties(len(action.legs), 0)
        fact = action if isinstance(action, CallStarted) else None
        began_at_ms = None if fact is None else fact.began_at_ms
        parent = None if fact is None or fact.parent is None else self.family.calls.get(fact.parent)
        here = None if parent is None else parent.leg_with(action.legs[0].number)
        if here is None or not here.live:
            parent = None
        rule = None if parent is None else self.limits.rules.consult_data
        begun = UserData() if parent is None or rule is None else consult_user_data(parent.user_data, rule)
        data = begun.attach(action.pairs) if parent is None else begun.update(action.pairs)
        self._check_size(data, begun)
        new = Call(
            id=self.operation.call_id,
            conn_id=action.conn_id,
            type=action.type,
            dnis=action.dnis,
            began_at_ms=self.operation.accepted_at_ms if began_at_ms is None else began_at_ms,
            legs=(),
            user_data=data,
            consult_data=rule,
            changed_keys=() if rule is None else tuple(dict(action.pairs)),
            ani="" if fact is None else fact.ani,
        )
        self.family.put(new.with_legs(action.legs))
        plan = [_Told(new.id, NotificationType.STATUS_CHANGE)]
        if parent is not None:
            self.family.relate(parent.id, action.legs[0].number, new.id)
            if rule is ConsultData.JOINT and action.pairs:
                joint = self._set_user_data(self.family.calls[parent.id], data, ())
                plan += [each for each in joint if each.call != new.id]
        return plan

    def _check_parties(self, parties: int, before: int) -> None:
        """Refuse more parties than the limit, counting those that left, unless none is new."""
        if parties > max(before, self.limits.max_parties):
            raise RefusedError(
                StatusCode.OUT_OF_RANGE,
                f"parties: the call would have {parties} of them; a call may have {self.limits.max_parties}",
            )

    def _check_size(self, data: UserData, before: UserData) -> None:
        """Refuse user data beyond the limits; reducing data that exceeds them is always possible."""
        size = data.size(self.limits.encoded_bytes)
        if size.pairs > self.limits.max_pairs:
            held, limit, unit = size.pairs, self.limits.max_pairs, "pairs"
        elif size.encoded_bytes > self.limits.max_bytes:
            held, limit, unit = size.encoded_bytes, self.limits.max_bytes, "bytes"
        else:
            return
        was = before.size(self.limits.encoded_bytes)
        if size.pairs <= was.pairs and size.encoded_bytes <= was.encoded_bytes:
            return
        raise RefusedError(
            StatusCode.OUT_OF_RANGE,
            f"userData: the call would hold {held} {unit} of user data; a call may hold {limit}",
        )

    def _outcome(self, plan: _Plan, reason: EndReason | None = None) -> Outcome:
        """Return the outcome with an event for each entry of the plan, and for each call that changed beside it."""
        self._let_monitors_join()
        self.family.settle()
        named = {each.call for each in plan}
        # In the same order whenever the operation is applied again, as the ids of the events follow from it.
        changed = sorted({each.id for each in self.family.changed()} - named)
        beside = [_Told(each, NotificationType.STATUS_CHANGE) for each in changed]
        events, latest = [], dict(self.family.before)
        for number, told in enumerate((*plan, *beside)):
            before, now = latest.get(told.call), self.family.calls[told.call]
            after = latest[told.call] = replace(now, version=now.version + 1)
            self.family.put(after)
            events.append(
                CallChanged(
                    id=event_id(self.operation.id, number),
                    notification=told.kind,
                    call=after,
                    recipients=_recipients(before, after),
                    accepted_at_ms=self.operation.accepted_at_ms,
                    reason=reason,
                    changed=_users_changed(before, after) if told.by_leg else None,
                    extensions=() if told.kind is _DATA else self.operation.extensions,
                )
            )
        others = tuple(each for each in self.family.changed() if each.id != self.operation.call_id)
        return Outcome(self.family.calls.get(self.operation.call_id), tuple(events), others=others)


def _pair(call: Call, leg: Leg, action: CompleteAction) -> tuple[CallId, CallId]:
    """Return the main call and the consult call that an operation on either of them joins."""
    pairs = [(call.id, each.call) for each in leg.consults]
    if leg.parent is not None:
        pairs.append((leg.parent.call, call.id))
    if action.consult is not None:
        pairs = [pair for pair in pairs if pair[1] == action.consult]
    if not pairs:
        raise RefusedError(StatusCode.INVALID_STATE, f"call {call.id} and call {action.consult} are not related")
    if len(pairs) > 1:
        names = ", ".join(consult for _, consult in pairs)
        raise RefusedError(StatusCode.PARAMETER_MISSING, f"consultCallUri is missing: there are the calls {names}")
    return pairs[0]


def _check_target(call: Call, leg: Leg, target: Leg) -> None:
    there = call.leg_with(target.number)
    if target.number == leg.number or (there is not None and there.live and not there.is_silent):
        raise RefusedError(StatusCode.OUT_OF_RANGE, f"destination.phoneNumber: {target.number} is on the call already")


def _users_changed(before: Call | None, after: Call) -> tuple[UserId, ...]:
    """Return the users of legs that changed."""
    earlier = {} if before is None else {leg.number: leg for leg in before.legs}
    changed = [leg for leg in after.legs if _shown(earlier.get(leg.number)) != _shown(leg)]
    return tuple(dict.fromkeys(leg.user for leg in changed if leg.user is not None))


def _shown(leg: Leg | None) -> tuple[object, ...] | None:
    return None if leg is None else (leg.state, leg.muted, leg.monitoring)


def _live(call: Call | None) -> set[str]:
    """Return the numbers of the legs on a call now."""
    return set() if call is None else {leg.number for leg in call.legs if leg.live}


def _recipients(before: Call | None, after: Call) -> tuple[UserId, ...]:
    """Return the users on the call before or after the change; those who left earlier get no events."""
    legs = (*(before.legs if before else ()), *after.legs)
    return tuple(dict.fromkeys(leg.user for leg in legs if leg.user is not None and leg.live)) or after.users()
