"""Proves the promises on the record of a run, without knowing how they are kept.

P1  every operation that was accepted took effect exactly once, one that was refused never
P2  those of one sender on one call took effect in the order in which they were sent
P3  every subscriber saw every version of its calls, in order; a repeat has the same event id; who reads the call
    then reads no earlier version

Calls that belong together are judged by a checker of their own.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final as Constant

from chaos.family_checker import check_families
from chaos.record import Data, Final, Operation, Received, Record, Subscriber

LOG: Constant = "log"
_POSSIBLE: Constant = ("attach", "update", "delete")


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise; `rule` names it."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass(frozen=True, slots=True)
class _State:
    """What one sender's operations have made of a call: the values under its key, and its values in the log."""

    own: tuple[str, ...] = ()
    log: tuple[str, ...] = ()

    def after(self, operation: Operation) -> "_State":
        match operation.kind:
            case "attach":
                return _State((*self.own, operation.value), (*self.log, operation.value))
            case "update":
                return _State((operation.value,), self.log)
            case "delete":
                return _State((), self.log)
            case _:
                return self


def check(record: Record) -> list[Violation]:
    """Every violation that the record shows."""
    found = [Violation("note", text) for text in record.notes]
    found += [Violation("parked", f"in the queue of dead letters: {text}") for text in record.parked]
    if record.unsent:
        found.append(Violation("unsent", f"{record.unsent} events are kept as unsent though all is quiet"))
    found += _check_service(record)
    for final in record.finals:
        found += _check_call(final, record)
    for subscriber in record.subscribers:
        if subscriber.missed:
            found.append(Violation("missed", f"{subscriber.name} was told {subscriber.missed} times of lost events"))
        found += _check_refusals(subscriber, record.operations)
    found += [Violation("family", text) for text in check_families(record)]
    return found


def _check_service(record: Record) -> Iterator[Violation]:
    """Whether there is something to judge: who accepts nothing, and tells nobody, keeps every other promise."""
    wanted = [each for each in record.operations if each.kind in _POSSIBLE]
    refused = [each.value for each in wanted if each.outcome == "refused"]
    if refused:
        yield Violation("service", f"operations were refused without a reason: {', '.join(refused)}")
    accepted = [each for each in wanted if each.outcome == "accepted"]
    if not wanted or len(accepted) < len(wanted) / 2:
        yield Violation("service", f"of {len(wanted)} operations only {len(accepted)} were accepted")
    finals = {final.call for final in record.finals}
    told = {call for each in record.subscribers for call in each.calls}
    for call in sorted({each.call for each in record.operations}):
        if call not in finals:
            yield Violation("service", f"how call {call} ended is not known")
        if call not in told:
            yield Violation("service", f"nobody subscribed to call {call}")


def _check_call(final: Final, record: Record) -> Iterator[Violation]:
    concerned = [each for each in record.subscribers if final.call in each.calls]
    history: dict[int, Received] = {}
    for subscriber in concerned:
        yield from _check_view(subscriber, final, history)
    if final.read != final.stored:
        yield Violation("final", f"call {final.call} is read as {final.read} and stored as {final.stored}")
    if not concerned:
        return
    last = max(history, default=0)
    if last != final.version:
        yield Violation(
            "final", f"call {final.call} is stored in version {final.version}; version {last} was told last"
        )
    elif history[last].data != final.stored:
        yield Violation("final", f"call {final.call} is stored as {final.stored}; told last was {history[last].data}")
    if set(history) == set(range(1, last + 1)):
        operations = [each for each in record.operations if each.call == final.call]
        yield from _Effects(final.call, operations).check(history)
    for subscriber in concerned:
        yield from _check_readings(subscriber, final.call, history)


# -- what a subscriber saw -------------------------------------------------------------------------------------------


def _check_view(subscriber: Subscriber, final: Final, history: dict[int, Received]) -> Iterator[Violation]:
    """Judge what one subscriber saw of a call, and add it to the history that all of them share."""
    seen: dict[str, Received] = {}
    last, sequence = 0, 0
    where = f"{subscriber.name} on call {final.call}"
    for message in subscriber.received:
        if message.call != final.call or message.version is None:
            continue
        if message.event_id in seen:
            if seen[message.event_id] != message:
                yield Violation("repeat", f"{where}: event {message.event_id} came again, and otherwise")
            continue
        seen[message.event_id] = message
        if message.version != last + 1:
            what = "goes back" if message.version <= last else "has a gap"
            yield Violation("view", f"{where} {what}: version {message.version} ({_named(message)}) after {last}")
        if message.sequence <= sequence:
            yield Violation("view", f"{where}: replay id {message.sequence} after {sequence} ({_named(message)})")
        last, sequence = max(last, message.version), message.sequence
        told = history.setdefault(message.version, message)
        if (told.event_id, told.data) != (message.event_id, message.data):
            yield Violation(
                "view", f"{where}: version {message.version} is {_named(message)}, elsewhere {_named(told)}"
            )
    if last < final.version and not subscriber.left:
        yield Violation("view", f"{where} ends with version {last}; the call is in version {final.version}")


def _check_readings(subscriber: Subscriber, call: str, history: Mapping[int, Received]) -> Iterator[Violation]:
    """Whoever reads a call after it was told of a version reads that one, or a later one."""
    for each in subscriber.readings:
        if each.call == call and not any(
            told.data == each.data for version, told in history.items() if version >= each.version
        ):
            yield Violation(
                "reading", f"{subscriber.name}, told of version {each.version} of call {call}, then read {each.data}"
            )


def _named(message: Received) -> str:
    return f"event {message.event_id}"


def _check_refusals(subscriber: Subscriber, operations: Sequence[Operation]) -> Iterator[Violation]:
    """Each operation that was taken and is not possible is told to its user."""
    told = Counter({message.call: 0 for message in subscriber.received})
    for call, _ in {(each.call, each.event_id) for each in subscriber.received if each.version is None}:
        told[call] += 1
    for call in subscriber.calls:
        mine = [
            each for each in operations
            if each.call == call and each.kind == "impossible" and each.user == subscriber.user
        ]  # fmt: skip
        least = 0 if subscriber.left else sum(each.outcome == "accepted" for each in mine)
        most = sum(each.outcome != "refused" for each in mine)
        if not least <= told[call] <= most:
            yield Violation(
                "refusals",
                f"{subscriber.name} on call {call} was told of {told[call]} refused operations; there were {least}"
                + (f" to {most}" if most > least else "")
                + f": {', '.join(each.value for each in mine)}",
            )


# -- what took effect ------------------------------------------------------------------------------------------------


class _Effects:
    """Walks through the versions of a call and finds for each the operation that made it."""

    def __init__(self, call: str, operations: Sequence[Operation]) -> None:
        self._call = call
        self._of: dict[str, list[Operation]] = {}
        for each in operations:
            self._of.setdefault(each.sender, []).append(each)
        self._states = {sender: _State() for sender in self._of}
        self._next = dict.fromkeys(self._of, 0)

    def check(self, history: Mapping[int, Received]) -> Iterator[Violation]:
        for version in sorted(history):
            yield from self._step(history[version], version)
        for sender, operations in self._of.items():
            yield from self._lost(operations[self._next[sender] :], self._states[sender], "at the end")
        yield from self._refused(history)

    def _step(self, message: Received, version: int) -> Iterator[Violation]:
        changed = []
        for sender, before in self._states.items():
            now = _seen(message.data, sender)
            if now != before:
                changed.append(sender)
                yield from self._explain(sender, now, version)
        # The first version is the beginning of the call.
        if version > 1 and len(changed) != 1:
            by = f" by {', '.join(changed)}" if changed else ""
            yield Violation(
                "effect", f"call {self._call}, version {version} ({_named(message)}) is {len(changed)} operations{by}"
            )

    def _explain(self, sender: str, now: _State, version: int) -> Iterator[Violation]:
        operations, state, begin = self._of[sender], self._states[sender], self._next[sender]
        self._states[sender] = now
        for place in range(begin, len(operations)):
            each = operations[place]
            if each.outcome != "refused" and state.after(each) == now:
                yield from self._lost(operations[begin:place], state, f"when {each.value} had, in version {version}")
                self._next[sender] = place + 1
                return
        yield Violation("effect", self._diagnosis(sender, state, now, version))

    def _diagnosis(self, sender: str, state: _State, now: _State, version: int) -> str:
        where = f"call {self._call}, sender {sender}, version {version}"
        more = Counter((*now.log, *now.own)) - Counter((*state.log, *state.own))
        done = {each.value for each in self._of[sender][: self._next[sender]]}
        known = {each.value: each for each in self._of[sender]}
        for value in more:
            if value not in known:
                return f"{where}: value {value} was never sent"
            if known[value].outcome == "refused":
                return f"{where}: operation {value} ({known[value].kind}) was refused and took effect"
            if value in done:
                return f"{where}: operation {value} ({known[value].kind}) took effect twice, or out of order"
        return f"{where}: no operation explains {state} becoming {now}"

    def _lost(self, operations: Sequence[Operation], state: _State, when: str) -> Iterator[Violation]:
        """Those that were accepted and had no effect though they would have changed something in that state."""
        for each in operations:
            # A removal of what is not there changes nothing.
            idle = each.kind in {"forbidden", "impossible"} or (each.kind == "delete" and not state.own)
            if each.outcome == "accepted" and not idle:
                yield Violation(
                    "effect",
                    f"call {self._call}, sender {each.sender}: operation {each.value} ({each.kind}) was accepted and "
                    f"had not taken effect {when}",
                )

    def _refused(self, history: Mapping[int, Received]) -> Iterator[Violation]:
        """A forbidden operation is refused, and what it carries shows nowhere."""
        forbidden = {each.value: each for own in self._of.values() for each in own if each.kind == "forbidden"}
        for each in forbidden.values():
            if each.outcome == "accepted":
                yield Violation("forbidden", f"call {self._call}, sender {each.sender}: {each.value} was accepted")
        shown = {value: version for version, told in history.items() for own in told.data.values() for value in own}
        for value in forbidden.keys() & shown.keys():
            where = f"call {self._call}, sender {forbidden[value].sender}"
            yield Violation("forbidden", f"{where}: {value} is forbidden, and in version {shown[value]}")


def _seen(data: Data, sender: str) -> _State:
    log = tuple(value for value in data.get(LOG, ()) if value.rpartition("-")[0] == sender)
    return _State(tuple(data.get(sender, ())), log)
