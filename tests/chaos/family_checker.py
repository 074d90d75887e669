"""Proves the promises on calls that belong together, by a model of its own of what becomes of user data.

A consult call begins with a copy of the data of the call from which it began. When the two are joined, each key that
was changed on the consult call has its values there; all others have those of the main call. A step that changes two
calls has changed both, or neither.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chaos.record import Data, Family, Received, Record, Step, Subscriber

Values = dict[str, list[str]]


@dataclass
class Model:
    """User data of both calls after the steps so far."""

    main: Values = field(default_factory=dict)
    consult: Values = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    is_over: bool = False

    def take(self, step: Step) -> None:
        if step.outcome == "refused":
            return
        match step.kind:
            case "consult":
                self.consult = {**self.main, **_values(step.data)}
                self.changed = set(step.data)
            case "join":
                self.main = {
                    key: values
                    for key, values in {**self.main, **{k: self.consult.get(k, []) for k in self.changed}}.items()
                    if values
                }
                self.is_over = True
            case "hangup":
                self.is_over = True
            case _:
                self._change(step)

    def _change(self, step: Step) -> None:
        data = self.main if step.call == "main" else self.consult
        for key, values in step.data.items():
            if step.call == "consult" and (step.kind != "delete" or key in data):
                self.changed.add(key)
            if step.kind == "delete":
                data.pop(key, None)
            else:
                data[key] = [*(data.get(key, []) if step.kind == "attach" else []), *values]


def _values(data: Data) -> Values:
    return {key: list(values) for key, values in data.items()}


def check_families(record: Record) -> Iterator[str]:
    """The text of each violation."""
    if record.families and not any(each.known for each in record.families):
        yield f"of {len(record.families)} families none came to its end"
    for family in record.families:
        yield from (f"family {family.main} ({family.ending}): {each} was refused" for each in family.refused)
        if not family.known:
            continue
        yield from _check_ends(family)
        for call in (family.main, family.consult):
            yield from _check_told(family, call, record.subscribers)
            yield from _check_values(family, call, record.subscribers)


def _check_values(family: Family, call: str, subscribers: Sequence[Subscriber]) -> Iterator[str]:
    """Check that no message and no reading shows a value twice, or one that was never sent."""
    sent = {value for step in family.steps for own in step.data.values() for value in own if step.outcome != "refused"}
    for subscriber in subscribers:
        shown: list[tuple[str, Data]] = [
            (f"version {each.version}", each.data) for each in subscriber.received if each.call == call
        ]
        shown += [
            (f"read after version {each.version}", each.data) for each in subscriber.readings if each.call == call
        ]
        for what, data in shown:
            values = [value for own in data.values() for value in own]
            if len(set(values)) < len(values) or not set(values) <= sent:
                yield f"{subscriber.name} on call {call} of family {family.main}: {what} has values that nobody sent"


def _check_ends(family: Family) -> Iterator[str]:
    model = Model()
    for step in family.steps:
        model.take(step)
    where = f"family {family.main} ({family.ending})"
    for call, wanted in ((family.main, model.main), (family.consult, model.consult)):
        final = family.finals[call]
        for what, seen in (("stored", final.stored), ("read", final.read)):
            if _values(seen) != wanted:
                yield f"{where}: call {call} is {what} as {_values(seen)}, and has to be {wanted}"
    over = {family.main: False, family.consult: model.is_over}
    if dict(family.released) != over:
        yield f"{where}: released are {dict(family.released)}, and have to be {over}: half of a step took effect"


def _check_told(family: Family, call: str, subscribers: Sequence[Subscriber]) -> Iterator[str]:
    """Check that all subscribers received the same versions, without a gap, and to the end if they are on the call."""
    history: dict[int, Received] = {}
    final = family.finals[call]
    for subscriber in subscribers:
        where = f"{subscriber.name} on call {call} of family {family.main} ({family.ending})"
        every = [each for each in subscriber.received if each.call == call and each.version is not None]
        told = _once(every)
        if any(each != {one.event_id: one for one in told}[each.event_id] for each in every):
            yield f"{where}: an event came again, and otherwise"
        if [each.sequence for each in told] != sorted({each.sequence for each in told}):
            yield f"{where}: replay ids go back"
        for before, after in zip([None, *told], told, strict=False):
            version, expected = after.version or 0, None if before is None else (before.version or 0) + 1
            if expected is not None and version != expected:
                yield f"{where} has version {version} in place of {expected}"
            known = history.setdefault(version, after)
            if (known.event_id, known.data) != (after.event_id, after.data):
                yield f"{where}: version {version} is event {after.event_id}, elsewhere {known.event_id}"
        sees = subscriber.calls_of or subscriber.user
        stays = call == family.consult or sees in family.parties
        if told and stays and told[-1].version != final.version and not subscriber.left:
            yield f"{where} ends with version {told[-1].version}; the call is in version {final.version}"
        from_the_beginning = sees == "alice" or (sees == "bob" and call == family.consult)
        if from_the_beginning and not subscriber.left and [each.version for each in told[:1]] != [1]:
            yield f"{where} was not told of its beginning"
        if not told and sees in family.parties and call == family.main and not subscriber.left:
            yield f"{where} was told nothing"
    last = history.get(final.version)
    if last is not None and last.data != final.stored:
        yield f"family {family.main}: call {call} was told last as {last.data}, and is stored as {final.stored}"


def _once(messages: Sequence[Received]) -> list[Received]:
    """The messages without repeats."""
    found: dict[str, Received] = {}
    for each in messages:
        found.setdefault(each.event_id, each)
    return list(found.values())
