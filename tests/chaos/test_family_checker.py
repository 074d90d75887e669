"""The checker of calls that belong together finds what is broken: every class of violation, made by hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from chaos.checker import check
from chaos.record import Data, Ending, Family, Final, Reading, Received, Record, Step, Subscriber

M, C = "F", "F_C"
STEPS = (
    Step("main", "update", {"kept": ["k"]}, "accepted"),
    Step("main", "update", {"shared": ["m"]}, "accepted"),
    Step("main", "update", {"gone": ["g"]}, "accepted"),
    Step("main", "consult", {"why": ["w"]}, "accepted"),
    Step("main", "attach", {"log-a": ["1"]}, "accepted"),
    Step("main", "attach", {"log-a": ["2"]}, "accepted"),
    Step("main", "update", {"shared": ["n"]}, "accepted"),
    Step("consult", "update", {"shared": ["c"]}, "accepted"),
    Step("consult", "attach", {"log-b": ["b1"]}, "accepted"),
    Step("consult", "delete", {"gone": []}, "accepted"),
    # There is nothing to remove.
    Step("consult", "delete", {"log-a": []}, "accepted"),
    Step("main", "join", {}, "accepted"),
)
JOINED: Data = {"kept": ["k"], "shared": ["c"], "log-a": ["1", "2"], "why": ["w"], "log-b": ["b1"]}
CONSULT: Data = {"kept": ["k"], "shared": ["c"], "why": ["w"], "log-b": ["b1"]}


def told(call: str, *versions: int, last: Data) -> list[Received]:
    """Messages of these versions."""
    return [
        Received(call, f"{call}-{each}", 10 * each + len(call), each, last if each == versions[-1] else {})
        for each in versions
    ]


def family(
    main: Data = JOINED,
    consult: Data = CONSULT,
    steps: Sequence[Step] = STEPS,
    ending: Ending = "transfer",
    **changes: Any,
) -> Family:
    finals = {M: Final(M, main, main, 8), C: Final(C, consult, consult, 5)}
    usual: dict[str, Any] = {"finals": finals, "released": {M: False, C: True}, "parties": ("bob",), "known": True}
    return Family(M, C, ending, steps, **(usual | changes))


ALICE = Subscriber("alice", "alice", [], [*told(M, 1, 2, 3, 4, 5, 6, last={}), *told(C, 1, 2, 3, 4, 5, last=CONSULT)])
BOB = Subscriber("bob", "bob", [], [*told(C, 1, 2, 3, 4, 5, last=CONSULT), *told(M, 6, 7, 8, last=JOINED)])
WATCHER = replace(ALICE, name="watcher", user="carol", calls_of="alice")


def record(one: Family, *subscribers: Subscriber) -> Record:
    """A run with nothing but the family."""
    return Record(1, (), subscribers or (ALICE, BOB, WATCHER), (), families=[one])


def violations(of: Record) -> list[str]:
    return [str(each) for each in check(of) if each.rule == "family"]


def test_a_good_family_holds() -> None:
    assert violations(record(family())) == []


def test_a_family_of_which_not_all_is_known_is_not_judged() -> None:
    assert violations(replace(record(family()), families=[family(), family({}, known=False)])) == []


def test_a_repeat_with_the_same_id_is_no_violation() -> None:
    assert violations(record(family(), ALICE, replace(BOB, received=[*BOB.received, *BOB.received]))) == []


def test_a_consult_call_that_ends_leaves_the_main_call_alone() -> None:
    steps = [
        *STEPS[:-1],
        Step("consult", "hangup", {}, "accepted"),
        Step("main", "update", {"step": ["s"]}, "accepted"),
    ]
    main = {"kept": ["k"], "shared": ["n"], "gone": ["g"], "log-a": ["1", "2"], "step": ["s"]}
    alone = family(main, steps=steps, ending="single step")
    bob = replace(BOB, received=[*told(C, 1, 2, 3, 4, 5, last=CONSULT), *told(M, 6, 7, 8, last=main)])
    assert violations(record(alone, ALICE, bob)) == []
    assert violations(record(replace(alone, finals=family().finals), ALICE, bob)), (
        "what was said there has no effect here"
    )


def test_what_came_too_late_may_have_no_effect() -> None:
    late = Step("consult", "attach", {"log-c": ["c1"]}, "refused")
    assert violations(record(family(steps=[*STEPS[:-1], late, STEPS[-1]]))) == []
    shown = family({**JOINED, "log-c": ["c1"]}, steps=[*STEPS[:-1], late, STEPS[-1]])
    assert any("log-c" in each for each in violations(record(shown)))


def without(data: Data, key: str, **more: Sequence[str]) -> Data:
    return {name: values for name, values in {**data, **more}.items() if name != key}


def changed(subscriber: Subscriber, change: Callable[[list[Received]], Sequence[Received]]) -> Subscriber:
    return replace(subscriber, received=change(list(subscriber.received)))


def finals(main: Data, stored: Data) -> Mapping[str, Final]:
    return {**family().finals, M: Final(M, main, stored, 8)}


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        pytest.param(record(family(without(JOINED, "log-b"))), ("F is stored as", "log-b"), id="lost"),
        pytest.param(record(family({**JOINED, "log-b": ["b1", "b1"]})), ("F is stored as", "'b1', 'b1'"), id="doubled"),
        pytest.param(record(family({**JOINED, "new": ["x"]})), ("F is stored as", "new"), id="invented"),
        pytest.param(record(family({**JOINED, "gone": ["g"]})), ("F is stored as", "gone"), id="not_removed"),
        pytest.param(record(family({**JOINED, "shared": ["n"]})), ("F is stored as", "shared"), id="main_wins"),
        pytest.param(record(family(without(JOINED, "kept"))), ("F is stored as", "kept"), id="main_lost"),
        pytest.param(record(family(consult=without(CONSULT, "kept"))), ("F_C is stored as",), id="not_inherited"),
        pytest.param(
            record(family(finals=finals(without(JOINED, "why"), JOINED))), ("F is read as", "why"), id="read"
        ),
        pytest.param(record(family(released={M: False, C: False})), ("half of a step",), id="half"),
        pytest.param(record(family(released={M: True, C: True})), ("half of a step",), id="both_over"),
        pytest.param(
            record(family(), ALICE, changed(BOB, lambda m: [*m[:2], *m[3:]])), ("bob on call F_C", "in place of 3"),
            id="gap",
        ),
        pytest.param(
            record(family(), ALICE, changed(BOB, lambda m: m[:-1])), ("bob on call F ", "ends with version 7"), id="end"
        ),
        pytest.param(record(family(), ALICE, changed(BOB, lambda m: m[:5])), ("bob on call F ", "nothing"), id="none"),
        pytest.param(
            record(family(), changed(ALICE, lambda m: m[:-1]), BOB), ("alice on call F_C", "ends with"), id="left_early"
        ),
        pytest.param(
            record(family(), ALICE, BOB, changed(WATCHER, lambda m: [*m[:5], replace(m[5], event_id="x"), *m[6:]])),
            ("version 6 is event", "F-6"),
            id="two_events",
        ),
        pytest.param(
            record(family(), ALICE, changed(BOB, lambda m: [*m[:-1], replace(m[-1], data=CONSULT)])),
            ("F was told last as",),
            id="told_otherwise",
        ),
        pytest.param(record(family(known=False)), ("none came to its end",), id="none_known"),
        pytest.param(record(family(refused=["Answer of bob"])), ("Answer of bob was refused",), id="refused"),
        pytest.param(
            record(family(), ALICE, changed(BOB, lambda m: [replace(m[0], data={"x": ["eve"]}), *m[1:]])),
            ("version 1 has values that nobody sent",),
            id="invented_under_way",
        ),
        pytest.param(
            record(family(), ALICE, replace(BOB, readings=[Reading(M, 7, {"log-a": ["1", "1"]})])),
            ("read after version 7 has values",),
            id="read_under_way",
        ),
        pytest.param(
            record(family(), changed(ALICE, lambda m: m[1:]), BOB), ("alice on call F ", "its beginning"), id="begin"
        ),
        pytest.param(
            record(family(), ALICE, changed(BOB, lambda m: [each for each in m if each.call == M])),
            ("bob on call F_C", "its beginning"),
            id="no_consult",
        ),
        pytest.param(
            record(family(), ALICE, changed(BOB, lambda m: [*m, replace(m[0], data=CONSULT)])),
            ("bob on call F_C", "came again, and otherwise"),
            id="repeat",
        ),
        pytest.param(
            record(family(), ALICE, changed(BOB, lambda m: [*m[:-1], replace(m[-1], sequence=1)])),
            ("bob on call F ", "replay ids go back"),
            id="sequence",
        ),
    ],
)  # fmt: skip
def test_each_violation_is_named(broken: Record, words: Sequence[str]) -> None:
    found = violations(broken)
    assert any(all(word in text for word in words) for text in found), found
