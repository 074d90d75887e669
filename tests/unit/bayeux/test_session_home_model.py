"""Sessions with a home node: no reachable state violates a property, and without any one of the rules, some state does.

A search that finds a violation prints the steps that lead to it.
"""

from dataclasses import fields, replace

import pytest

from parts.session_home_model import ALL_RULES, Case, Property, Rules, Setup
from parts.session_home_search import Result, search

MISSED, REPEATED, STALE, STUCK = Property.MISSED, Property.REPEATED, Property.STALE, Property.STUCK

FAULTS = {
    "none": Setup(roams=True, events=3, claims=4, timeouts=2),
    "notice": Setup(roams=True, notices=1),
    "two answers": Setup(answers=2, claims=2),
    "answer while roaming": Setup(roams=True, answers=1),
    "crash and answer": Setup(crashes=1, answers=1, claims=2),
    "crash while roaming": Setup(roams=True, crashes=1, claims=2),
    "reply and answer": Setup(replies=1, answers=1),
    "reply, crash and answer": Setup(replies=1, crashes=1, answers=1, events=1, claims=2),
    "lapse and answer": Setup(lapses=1, answers=1, events=1, claims=2),
    "lapse while roaming": Setup(roams=True, lapses=1, events=1, claims=2),
    "flush and answer": Setup(flushes=1, answers=1, events=1),
    "flush and answer, two events": Setup(flushes=1, answers=1, claims=2, timeouts=0),
}

LOST_ANSWER = Setup(answers=1)
LAPSE = Setup(lapses=1)
LAPSE_AND_LOST_ANSWER = Setup(lapses=1, answers=1)
LATE_FLUSH = Setup(flushes=1, answers=1)
LOST_NOTICE = Setup(notices=1)
ROAMING = Setup(roams=True)

MUTATIONS = [
    ("lease_compared_at_use", LAPSE, STALE),
    ("lease_compared_at_use", LAPSE_AND_LOST_ANSWER, MISSED),
    ("copies_verified_after_lapse", LAPSE, STALE),
    ("copies_verified_after_lapse", LAPSE_AND_LOST_ANSWER, MISSED),
    ("verify_raises_cycle", LAPSE_AND_LOST_ANSWER, MISSED),
    ("lapsed_take_over_verified", LAPSE_AND_LOST_ANSWER, MISSED),
    ("unknown_number_claims", replace(LATE_FLUSH, acknowledges=True), MISSED),
    ("claim_flushes", Setup(), REPEATED),
    ("flush_drops_copy", Setup(), REPEATED),
    ("flush_compares_cycle", LAPSE, REPEATED),
    ("home_moves_after_flush", Setup(), REPEATED),
    ("home_moves_after_flush", Setup(crashes=1, answers=1), MISSED),
    ("take_over_compares_cycle", Setup(answers=2), MISSED),
    ("take_over_compares_cycle", replace(LOST_ANSWER, acknowledges=True), MISSED),
    ("take_over_saves", LATE_FLUSH, MISSED),
    ("take_over_returns_head", replace(LOST_ANSWER, acknowledges=True), MISSED),
    ("late_flush_answer_ignored", LATE_FLUSH, MISSED),
    ("flush_awaits_reply", Setup(replies=1, crashes=1, answers=1, claims=2), MISSED),
    ("claim_awaits_lapse", LATE_FLUSH, MISSED),
    ("numbers_skip", replace(LATE_FLUSH, acknowledges=True), MISSED),
    ("again_resends", LOST_ANSWER, MISSED),
    ("claim_again_resends", LOST_ANSWER, MISSED),
    ("awaited_connect_answered_empty", LOST_ANSWER, MISSED),
    ("only_numbers_confirm", replace(LOST_ANSWER, acknowledges=True), MISSED),
    ("connect_marks_dirty", LOST_NOTICE, STUCK),
    ("save_compares_cycle", ROAMING, REPEATED),
    ("refused_save_drops_copy", replace(LATE_FLUSH, acknowledges=True), STALE),
    ("refused_save_drops_copy", replace(LATE_FLUSH, acknowledges=True), STUCK),
    ("save_returns_head", LOST_NOTICE, STUCK),
    ("roaming_connect_saved", ROAMING, REPEATED),
    ("roaming_saves_before_answer", ROAMING, REPEATED),
    ("exact_cleared", ROAMING, REPEATED),
]


def without(rule: str, setup: Setup, violated: Property) -> Result:
    return search(Case(setup, replace(ALL_RULES, **{rule: False}), frozenset({violated})))


@pytest.mark.parametrize("acknowledges", [False, True], ids=["no acknowledgement", "acknowledgement"])
@pytest.mark.parametrize("setup", FAULTS.values(), ids=FAULTS.keys())
def test_no_reachable_state_violates_a_property(setup: Setup, acknowledges: bool) -> None:
    result = search(Case(replace(setup, acknowledges=acknowledges)))
    assert result.violated is None, "\n".join(result.trace)


@pytest.mark.parametrize(("rule", "setup", "violated"), MUTATIONS, ids=[f"{each[0]}-{each[2]}" for each in MUTATIONS])
def test_a_state_violates_a_property_without(rule: str, setup: Setup, violated: Property) -> None:
    result = without(rule, setup, violated)
    print("\n".join(result.trace))
    assert result.violated is violated
    assert len(result.trace) <= 40


def test_every_rule_is_left_out_once() -> None:
    assert {rule for rule, _, _ in MUTATIONS} == {each.name for each in fields(Rules)}


def test_every_step_is_taken() -> None:
    setups = (
        Setup(crashes=1, lapses=1, flushes=1, replies=1, claims=1, events=1),
        Setup(roams=True, answers=1, claims=2, events=1),
    )
    assert set().union(*(search(Case(each)).taken for each in setups)) == {
        "publish", "receive_notice", "connect", "lose_connect", "give_up", "time_out", "save", "end_roaming", "crash",
        "lapse", "renew", "verify", "answer_flush", "receive_flush", "see_lapse", "stop_waiting", "receive_reply",
    }  # fmt: skip


def test_a_trace_tells_each_step() -> None:
    assert without("unknown_number_claims", replace(LATE_FLUSH, acknowledges=True), MISSED).trace == (
        "event 1 is published",
        "client: connects to A, acknowledges 0",
        "client: gives up its connect to A",
        "client: connects to B, acknowledges 0",
        "B: claims, asks A to flush",
        "B: stops waiting for the flush",
        "B: takes over, cycle 2",
        "B: answers 1..1 as batch 11",
        "event 2 is published",
        "A: receives the notice of event 2",
        "A: answers 1..2 as batch 1, to the connect that was given up",
        "client: connects to A, acknowledges 11",
        "A: answers nothing as batch 12",
        "missed: an answer begins after event 2, the client has 1",
    )
