"""The checker finds what is broken, and names it: every class of violation, made by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from chaos.checker import check
from chaos.record import Data, Final, Operation, Reading, Received, Record, Subscriber

CALL = "C1"
OPERATIONS = (
    Operation(CALL, "ann", 0, "attach", "accepted", "alice"),
    Operation(CALL, "ann", 1, "attach", "accepted", "alice"),
    Operation(CALL, "ann", 2, "delete", "accepted", "alice"),
    # There is nothing left to remove.
    Operation(CALL, "ann", 3, "delete", "accepted", "alice"),
    Operation(CALL, "ann", 4, "forbidden", "refused", "alice"),
    Operation(CALL, "ann", 5, "impossible", "accepted", "alice"),
    Operation(CALL, "ann", 6, "update", "accepted", "alice"),
    Operation(CALL, "ben", 0, "attach", "accepted", "bob"),
    Operation(CALL, "ben", 1, "attach", "unknown", "bob"),
)
DATA: Sequence[Data] = (
    {},
    {"log": ["ann-0"], "ann": ["ann-0"]},
    {"log": ["ann-0", "ben-0"], "ann": ["ann-0"], "ben": ["ben-0"]},
    {"log": ["ann-0", "ben-0", "ann-1"], "ann": ["ann-0", "ann-1"], "ben": ["ben-0"]},
    {"log": ["ann-0", "ben-0", "ann-1"], "ben": ["ben-0"]},
    {"log": ["ann-0", "ben-0", "ann-1"], "ben": ["ben-0"], "ann": ["ann-6"]},
)


def told(datas: Sequence[Data]) -> list[Received]:
    """One version after another."""
    return [Received(CALL, f"e{at}", 10 * at, at, data) for at, data in enumerate(datas, 1)]


REFUSAL = Received(CALL, "r", 45)


def record(datas: Sequence[Data] = DATA, operations: Sequence[Operation] = OPERATIONS) -> Record:
    """A run in which all went well, unless the versions or the operations are others."""
    messages = told(datas)
    alice, bob = (Subscriber(user, user, [CALL], messages) for user in ("alice", "bob"))
    alice = replace(alice, received=[*messages[:4], REFUSAL, *messages[4:]])
    return Record(1, operations, [alice, bob], [Final(CALL, datas[-1], datas[-1], len(datas))])


def changed(number: int, **what: object) -> list[Operation]:
    """The operations with one of them changed."""
    operations = list(OPERATIONS)
    operations[number] = replace(operations[number], **what)  # type: ignore[arg-type]
    return operations


def seen(change: Callable[[list[Received]], Sequence[Received]]) -> Record:
    """A record in which bob received something else."""
    good = record()
    alice, bob = good.subscribers
    return replace(good, subscribers=[alice, replace(bob, received=change(list(bob.received)))])


def test_a_good_run_holds() -> None:
    assert check(record()) == []


def test_an_operation_without_an_answer_may_have_taken_effect() -> None:
    both = {**DATA[-1], "log": [*DATA[-1]["log"], "ben-1"], "ben": ["ben-0", "ben-1"]}
    assert check(record([*DATA, both])) == []


def test_a_repeat_with_the_same_id_is_no_violation() -> None:
    assert check(seen(lambda messages: [*messages[:3], *messages[1:]])) == []


def test_whoever_left_need_not_have_seen_the_end() -> None:
    good = seen(lambda messages: messages[:2])
    alice, bob = good.subscribers
    assert check(replace(good, subscribers=[alice, replace(bob, left=True)])) == []


def read(version: int, data: Data) -> Record:
    """A record in which bob read the call after having been told of a version."""
    good = record()
    alice, bob = good.subscribers
    return replace(good, subscribers=[alice, replace(bob, readings=[Reading(CALL, version, data)])])


def test_whoever_reads_later_may_read_a_later_version() -> None:
    assert check(read(2, DATA[1])) == check(read(2, DATA[5])) == []


LOST = [{key: [v for v in values if v != "ann-1"] for key, values in each.items()} for each in DATA if each != DATA[3]]
TWICE = [*DATA, {**DATA[-1], "log": [*DATA[-1]["log"], "ben-0"], "ben": ["ben-0", "ben-0"]}]
SWAPPED = [
    {},
    {"log": ["ann-1"], "ann": ["ann-1"]},
    {"log": ["ann-1", "ann-0"], "ann": ["ann-1", "ann-0"]},
    {"log": ["ann-1", "ann-0", "ben-0"], "ann": ["ann-1", "ann-0"], "ben": ["ben-0"]},
    {"log": ["ann-1", "ann-0", "ben-0"], "ben": ["ben-0"]},
    {"log": ["ann-1", "ann-0", "ben-0"], "ben": ["ben-0"], "ann": ["ann-6"]},
]
SHOWN = [*DATA, {**DATA[-1], "log": [*DATA[-1]["log"], "ann-4"]}]
AT_ONCE = [DATA[0], DATA[2], *DATA[3:]]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        pytest.param(record(LOST), ("C1", "ann", "ann-1 (attach) was accepted and had not"), id="lost"),
        pytest.param(record(DATA[:5]), ("ann", "ann-6 (update) was accepted", "at the end"), id="lost_last"),
        pytest.param(record(TWICE), ("C1", "ben", "ben-0 (attach) took effect twice"), id="twice"),
        pytest.param(
            record(operations=changed(1, outcome="refused")),
            ("C1", "ann", "ann-1 (attach) was refused and took effect"),
            id="refused",
        ),
        pytest.param(record(SWAPPED), ("ann", "ann-0 (attach) was accepted", "when ann-1 had"), id="reordered"),
        pytest.param(record([*DATA, DATA[-1]]), ("C1", "version 7", "0 operations"), id="nothing"),
        pytest.param(record(AT_ONCE), ("version 2", "2 operations by ann, ben"), id="at_once"),
        pytest.param(record(SHOWN), ("ann-4 is forbidden, and in version 7",), id="forbidden_shown"),
        pytest.param(
            record(operations=changed(4, outcome="accepted")), ("ann", "ann-4 was accepted"), id="forbidden_accepted"
        ),
        pytest.param(
            record([*DATA, {**DATA[-1], "ann": ["ann-6", "eve-0"]}]), ("eve-0 was never sent",), id="never_sent"
        ),
        pytest.param(record([*DATA, {**DATA[-1], "ben": []}]), ("ben", "no operation explains"), id="unexplained"),
        pytest.param(seen(lambda m: [*m[:2], *m[3:]]), ("bob on call C1 has a gap: version 4",), id="gap"),
        pytest.param(seen(lambda m: m[:-1]), ("bob on call C1 ends with version 5",), id="end_missing"),
        pytest.param(
            seen(lambda m: [*m, replace(m[1], event_id="x")]), ("bob", "goes back: version 2 (event x)"), id="back"
        ),
        pytest.param(seen(lambda m: [*m, replace(m[1], data={})]), ("event e2 came again", "otherwise"), id="repeat"),
        pytest.param(
            seen(lambda m: [*m[:-1], replace(m[-1], sequence=1)]), ("bob", "replay id 1 after"), id="sequence"
        ),
        pytest.param(
            seen(lambda m: [*m[:-1], replace(m[-1], event_id="y")]), ("version 6 is event y", "e6"), id="two_events"
        ),
        pytest.param(
            replace(record(), subscribers=[replace(each, received=told(DATA)) for each in record().subscribers]),
            ("alice on call C1 was told of 0 refused operations; there were 1: ann-5",),
            id="refusal_missing",
        ),
        pytest.param(
            replace(record(), finals=[Final(CALL, DATA[-1], DATA[4], 6)]), ("C1 is read as", "stored"), id="read"
        ),
        pytest.param(
            replace(record(), finals=[Final(CALL, DATA[4], DATA[4], 6)]), ("C1 is stored as", "told last"), id="stored"
        ),
        pytest.param(replace(record(), finals=[Final(CALL, DATA[-1], DATA[-1], 7)]), ("version 7",), id="version"),
        pytest.param(read(3, DATA[1]), ("bob", "told of version 3 of call C1, then read"), id="read_too_early"),
        pytest.param(replace(record(), parked=["an operation"]), ("dead letters: an operation",), id="parked"),
        pytest.param(replace(record(), unsent=2), ("2 events are kept as unsent",), id="unsent"),
        pytest.param(replace(record(), notes=["worker-1 ended with 1"]), ("worker-1 ended with 1",), id="note"),
        pytest.param(
            replace(record(), subscribers=[replace(each, missed=1) for each in record().subscribers]),
            ("alice was told 1 times of lost events",),
            id="missed",
        ),
    ],
)
def test_each_violation_is_named(broken: Record, words: Sequence[str]) -> None:
    found = [str(each) for each in check(broken)]
    assert any(all(word in text for word in words) for text in found), found


SERVICE = [
    (changed(0, outcome="refused"), "refused without a reason: ann-0"),
    ([replace(each, outcome="unknown") for each in OPERATIONS], "of 7 operations only 0 were accepted"),
    ([], "of 0 operations only 0 were accepted"),
    ([*OPERATIONS, Operation("C2", "ann", 0, "attach", "accepted", "alice")], "how call C2 ended is not known"),
    ([*OPERATIONS, Operation("C2", "ann", 0, "attach", "accepted", "alice")], "nobody subscribed to call C2"),
]


@pytest.mark.parametrize(("operations", "text"), SERVICE, ids=[text for _, text in SERVICE])
def test_a_run_without_anything_to_judge_does_not_hold(operations: Sequence[Operation], text: str) -> None:
    assert any(each.rule == "service" and text in each.text for each in check(record(operations=operations)))
