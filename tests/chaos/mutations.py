"""Proves that the chaos suite finds what it is there to find: calltag is broken on purpose, and a run has to show it.

`python -m chaos.mutations [--only NAME] [--folder PATH]`. Each mutation changes a copy of the tree, and its faults are
those under which the mutation matters; one that shows after rare faults alone, in a certain order, names a test in
place of faults. A mutation whose text is not found once ends the script: the code has moved on, and the mutation has to
follow.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_COPIED: Final = ("services", "shared", "tests")
_WORKER: Final = "services/calltag/worker"
_LUA: Final = "shared/calltag/core/store/lua"
_STORE_SOURCE: Final = "shared/calltag/core/store"
_RABBITMQ: Final = "shared/calltag/core/broker/rabbitmq"
_NOTIFIER: Final = "services/calltag/notifier"
_MANAGER: Final = f"{_NOTIFIER}/session_manager.py"
_SYNC: Final = f"{_NOTIFIER}/session_sync.py"
_LEASE: Final = f"{_NOTIFIER}/node_presence.py"
_IN_TIME: Final = "(self.clock_ms() if now_ms is None else now_ms) < self.valid_until_ms"
_COVERS: Final = f"return period == self.period and {_IN_TIME}"
_CLAIMS: Final = f"{_NOTIFIER}/session_claims.py"
_SESSION: Final = "shared/calltag/core/bayeux/session.py"
_HOMES: Final = "tests/unit/notifier/test_session_homes.py"
_STORE: Final = "tests/contract/test_cometd_sessions.py"
_LOST: Final = "tests/contract/test_lost_answers.py"

_SLOW_WORKERS: Final = {"slow worker:store": 4, "kill worker": 4}
_LOST_ANSWERS: Final = {"cut gateway:broker": 3, "stall gateway:broker": 3, "kill gateway": 2, "cut gateway:clients": 3}


class _NoRecord(Exception):
    """The run itself failed, which proves nothing."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A text that is in a file once, and what takes its place."""

    path: str
    text: str
    becomes: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """Something that calltag must not do; `mix` has the faults that show it. Where there is a `test`, that shows it."""

    name: str
    edits: Sequence[Edit]
    mix: Mapping[str, float] = field(default_factory=dict)
    every_s: float = 1.2
    seconds: float = 12
    test: str = ""


def _one(path: str, text: str, becomes: str) -> tuple[Edit]:
    return (Edit(path, text, becomes),)


def _tested(rule: str, edits: Sequence[Edit], test: str) -> Mutation:
    return Mutation(f"breaks the rule {rule}", edits, test=test)


MUTATIONS: Final = (
    Mutation(
        "acknowledges an operation before it is committed",
        _one(
            f"{_WORKER}/partition_runner.py",
            "        works = [self._read(each) for each in deliveries]\n",
            "        for each in deliveries[-1:]:\n"
            "            await consumer.ack_through(each.tag)\n"
            "        works = [self._read(each) for each in deliveries]\n",
        ),
        _SLOW_WORKERS,
    ),
    Mutation(
        "acknowledges what has come and was not carried out yet",
        _one(
            f"{_RABBITMQ}/consumer.py",
            "await underlay.basic_ack(settled.through, multiple=True)",
            "await underlay.basic_ack(\n"
            "    max([settled.through, *(each.delivery_tag or 0 for each in self._arrived)]), multiple=True\n"
            ")",
        ),
        _SLOW_WORKERS,
    ),
    Mutation(
        "does not recognise an operation that is done",
        (
            Edit(
                f"{_WORKER}/batch.py",
                "return self.done.get(operation_id) or self.loaded.done.get(operation_id)",
                "return None",
            ),
            Edit(f"{_LUA}/commit.lua", "change.finished[i]) == 1 then", "change.finished[i]) == 2 then"),
        ),
        {**_SLOW_WORKERS, **_LOST_ANSWERS},
    ),
    Mutation(
        "ends one of two calls that are joined, and not the other",
        _one(
            f"{_WORKER}/batch.py",
            "            subject.state, subject.is_reached = call, True\n",
            "            if not call.released:\n                subject.state, subject.is_reached = call, True\n",
        ),
        _SLOW_WORKERS,
    ),
    Mutation(
        "lets the user data of the main call win when a consult call is joined",
        _one(
            "shared/calltag/core/domain/family.py",
            "                    values[key] = consult.values[key]",
            "                    values.setdefault(key, consult.values[key])",
        ),
        _SLOW_WORKERS,
    ),
    Mutation(
        "gives a repeated request another operation id",
        _one(
            "shared/calltag/core/domain/ids.py",
            'f"{user}\\0{key_digest}".encode()',
            'f"{user}\\0{key_digest}{id(key_digest)}".encode()',
        ),
        _LOST_ANSWERS,
    ),
    Mutation(
        "commits in an epoch that is over",
        _one(f"{_LUA}/commit.lua", "if epoch ~= take() then return {'fenced', epoch} end", "take()"),
        # The next owner mostly finds late events in the outbox, so that one run of many under fire shows it.
        test="tests/contract/test_store.py::test_a_former_owner_is_fenced",
    ),
    Mutation(
        "does not raise the epoch with a take-over",
        _one(f"{_LUA}/take_over.lua", " + tonumber(ARGV[2]))", " + 0)"),
        test="tests/contract/test_store.py::test_a_former_owner_is_fenced",
    ),
    Mutation(
        "lets several workers consume a partition",
        _one(f"{_RABBITMQ}/topology.py", '"x-single-active-consumer": True', '"x-single-active-consumer": False'),
        {"join": 3, "terminate worker": 3, "freeze worker": 3, "slow worker:store": 4},
    ),
    Mutation(
        "publishes without a confirm",
        _one(f"{_RABBITMQ}/publisher.py", "open_channel(confirms=True)", "open_channel(confirms=False)"),
        {"slow gateway:broker": 4, "cut gateway:broker": 6, "stall gateway:broker": 2, "kill gateway": 2},
    ),
    Mutation(
        "answers before the broker has confirmed",
        _one(
            "services/calltag/gateway/operation_publisher.py",
            "            await self._publish(operations, reply_to=None)",
            "            self.__class__.later = asyncio.ensure_future(self._publish(operations, reply_to=None))",
        ),
        {"slow gateway:broker": 4, "cut gateway:broker": 6, "stall gateway:broker": 2, "kill gateway": 2},
    ),
    Mutation(
        "answers although the broker did not take it",
        _one(
            "services/calltag/gateway/operation_publisher.py",
            '            raise BackendUnavailable(f"RabbitMQ did not confirm the operation: {failure}") from failure',
            "            if reply_to is not None:\n                raise BackendUnavailable(str(failure)) from failure",
        ),
        {"cut gateway:broker": 3, "stall gateway:broker": 3},
    ),
    Mutation(
        "does not keep the events with the change",
        _one(f"{_LUA}/commit.lua", "for _, event in ipairs(events) do", "for _, event in ipairs({}) do"),
        _SLOW_WORKERS,
    ),
    Mutation(
        "takes over without sending what was kept",
        _one(f"{_WORKER}/partition_owner.py", "            if taken.kept:\n", "            if not taken.epoch:\n"),
        _SLOW_WORKERS,
    ),
    Mutation(
        "tells of a change before it is committed",
        _one(
            f"{_WORKER}/partition_owner.py",
            "        began = time.perf_counter()\n",
            "        began = time.perf_counter()\n"
            "        await self._publisher.send(Publication((), list(zip(folded.events, folded.encoded)), ()))\n",
        ),
        {"slow worker:store": 4, "stall worker:store": 2},
    ),
    Mutation(
        "goes on after a commit of which the outcome is not known",
        _one(
            f"{_WORKER}/partition_owner.py",
            "                self.doubt()\n                conflicts += ",
            "                conflicts += ",
        ),
        {"unanswered": 4, "cut worker:store": 2},
    ),
    Mutation(
        "adds an event to a stream each time it is sent",
        _one(f"{_LUA}/append.lua", "match(added or '', '(%d+) (%d+) (%d+)')", "match('', '(%d+) (%d+) (%d+)')"),
        {"slow worker:store": 4, "kill worker": 4, "cut worker:store": 3},
    ),
    Mutation(
        "does not look for events that did not come",
        _one("shared/calltag/core/bayeux/user_feed.py", "            raise Gap\n", "            pass\n"),
        {"forget notifier": 2, "cut notifier:broker": 3, "stall notifier:broker": 3, "kill worker": 1},
    ),
    Mutation(
        "forgets at a reconnect what the client lacks",
        (
            Edit(
                f"{_LUA}/session_read.lua", "session.ack == '1' and session.confirmed or session.sent", "session.sent"
            ),
            Edit(
                _SESSION,
                "        if has_all:\n            self.replays.confirm()\n        else:\n",
                "        if False:\n",
            ),
        ),
        {"slow notifier:clients": 6, "cut notifier:clients": 4, "kill notifier": 2},
    ),
    Mutation(
        "does not give a session what it missed while away",
        _one(
            f"{_NOTIFIER}/session_manager.py",
            "self.dispatcher.take_in(session, found.entries, ",
            "self.dispatcher.take_in(session, found.entries[1:], ",
        ),
        {"kill notifier": 3, "cut notifier:clients": 3},
    ),
)

# The rules of `parts.session_home_model`, by the names of their switches. Each has a test that is over in seconds.
HOMES: Final = (
    _tested(
        "lease_compared_at_use",
        (
            Edit(_LEASE, _COVERS, "return period == self.period"),
            Edit(
                f"{_NOTIFIER}/event_dispatcher.py",
                "self.lease.period if self.lease.is_valid else",
                "self.lease.period if self else",
            ),
        ),
        f"{_HOMES}::test_a_home_answers_nothing_while_its_lease_has_lapsed",
    ),
    _tested(
        "copies_verified_after_lapse",
        _one(_LEASE, _COVERS, f"return {_IN_TIME}"),
        f"{_HOMES}::test_a_copy_from_before_a_lapse_answers_nothing_until_it_is_verified",
    ),
    _tested(
        "unknown_number_claims",
        _one(_SESSION, "            if number > self.batch:\n                return False\n", ""),
        "tests/unit/bayeux/test_session.py::test_a_number_that_this_home_did_not_give_is_for_the_store",
    ),
    _tested(
        "claim_flushes",
        _one(_MANAGER, "if here is None and record.home != self.node and not record.is_exact:", "if False:"),
        f"{_HOMES}::test_a_claim_waits_until_the_home_has_saved_the_session",
    ),
    _tested(
        "home_moves_after_flush",
        _one(_CLAIMS, "                        await flushed\n", "                        pass\n"),
        f"{_HOMES}::test_a_claim_waits_until_the_home_has_saved_the_session",
    ),
    _tested(
        "flush_drops_copy",
        _one(
            _SYNC,
            "        self.endings.release(resident)\n        if has_moved:\n",
            "        if has_moved:\n",
        ),
        f"{_HOMES}::test_a_flush_drops_the_copy_and_its_connect",
    ),
    _tested(
        "flush_compares_cycle",
        _one(_MANAGER, "                elif resident.session.cycle <= notice.cycle:\n", "                else:\n"),
        f"{_HOMES}::test_a_flush_for_an_earlier_cycle_than_the_copy_takes_nothing_away",
    ),
    _tested(
        "take_over_compares_cycle",
        _one(f"{_LUA}/session_take_over.lua", "if cycle ~= a.cycle or (", "if not cycle or ("),
        f"{_STORE}::test_the_first_to_take_over_wins",
    ),
    _tested(
        "take_over_compares_cycle: what was saved since",
        _one(f"{_LUA}/session_take_over.lua", " or (a.saved and saved ~= a.saved) then", " then"),
        f"{_STORE}::test_what_was_saved_since_it_was_read_is_not_written_over",
    ),
    _tested(
        "take_over_saves",
        _one(f"{_LUA}/session_take_over.lua", "  write_session(KEYS[1], a, at, changes)\n", ""),
        f"{_STORE}::test_a_take_over_saves_the_session",
    ),
    _tested(
        "take_over_returns_head",
        _one(
            f"{_LUA}/session_take_over.lua", "return {1, changes, integer(tail_of(KEYS[4]))}", "return {1, changes, 0}"
        ),
        f"{_STORE}::test_a_session_moves_with_its_connects",
    ),
    _tested(
        "late_flush_answer_ignored",
        _one(_CLAIMS, "waiting is not None and cycle == notice.cycle and not", "waiting is not None and not"),
        f"{_HOMES}::test_an_answer_to_another_flush_is_ignored",
    ),
    _tested(
        "flush_awaits_reply",
        _one(_MANAGER, "            async with self.turn(notice.client_id):\n", "            if notice.client_id:\n"),
        f"{_HOMES}::test_a_flush_waits_for_a_take_over_that_is_under_way",
    ),
    _tested(
        "claim_awaits_lapse",
        _one(_CLAIMS, "            if record.acknowledges:\n", "            if record:\n"),
        f"{_HOMES}::test_a_claim_of_a_client_that_does_not_acknowledge_waits_for_the_lapse",
    ),
    _tested(
        "claim_awaits_lapse: a home whose lease has lapsed is not asked",
        _one(
            _CLAIMS,
            "                        await self._ask(record)\n                    looks += 1\n",
            "                        pass\n                    looks += 1\n",
        ),
        "tests/unit/notifier/test_claims.py::"
        "test_a_home_that_lives_though_its_lease_has_lapsed_saves_what_it_alone_knows",
    ),
    _tested(
        "verify_raises_cycle",
        _one(
            f"{_LUA}/session_save.lua",
            "cycle = redis.call('HINCRBY', KEYS[k + 1], 'cycle', 1) end",
            "cycle = a.cycle end",
        ),
        f"{_STORE}::test_a_home_whose_lease_lapsed_refuses_those_who_saw_that",
    ),
    _tested(
        "verify_raises_cycle: the home does not ask for it",
        _one(_SYNC, "is_exact=is_exact, verify=verify)", "is_exact=is_exact)"),
        f"{_HOMES}::test_what_verifies_a_copy_refuses_who_saw_the_lapse",
    ),
    _tested(
        "verify_raises_cycle: a repeated request is refused",
        _one(f"{_LUA}/session_save.lua", "(cycle == a.cycle or was_verified)", "cycle == a.cycle"),
        f"{_LOST}::test_a_save_that_verifies_raises_the_cycle_once",
    ),
    _tested(
        "numbers_skip",
        _one(_SESSION, "                self.batch += UNSAVED_BATCHES\n", "                pass\n"),
        f"{_HOMES}::test_numbers_that_the_home_may_have_given_are_skipped",
    ),
    _tested(
        "again_resends",
        _one(_SESSION, "        else:\n            self.rewind()\n        return True\n", "        return True\n"),
        "tests/unit/bayeux/test_session.py::test_a_client_that_may_lack_an_answer_gets_it_again",
    ),
    _tested(
        "claim_again_resends",
        _one(_MANAGER, "        if is_latest or connect.again:\n", "        if is_latest:\n"),
        f"{_HOMES}::test_what_a_client_lacks_comes_again_where_it_goes",
    ),
    _tested(
        "awaited_connect_answered_empty",
        _one(
            _MANAGER,
            "        if not is_latest:\n            return self.replies.empty(",
            "        if False:\n            return self.replies.empty(",
        ),
        f"{_HOMES}::test_a_connect_that_waited_for_a_flush_confirms_nothing_and_brings_nothing",
    ),
    _tested(
        "awaited_connect_answered_empty: it confirms",
        _one(_MANAGER, "        if is_latest or connect.again:\n", "        if connect:\n"),
        f"{_HOMES}::test_a_connect_that_waited_for_a_flush_confirms_nothing_and_brings_nothing",
    ),
    _tested(
        "only_numbers_confirm",
        _one(
            _SESSION,
            "            self._acknowledge(number)\n            has_all = ",
            "            self._confirm(self.sent)\n            has_all = ",
        ),
        "tests/unit/bayeux/test_session.py::test_a_number_acknowledges_its_answer_and_all_before",
    ),
    _tested(
        "connect_marks_dirty",
        _one(
            _MANAGER,
            "            self.background.begin(self._watch(session))\n        self.registry.mark(resident)\n",
            "            self.background.begin(self._watch(session))\n",
        ),
        f"{_HOMES}::test_a_connect_that_only_confirms_is_saved",
    ),
    _tested(
        "save_compares_cycle",
        _one(
            f"{_LUA}/session_save.lua",
            "home == common.node and (cycle == a.cycle or was_verified)",
            "home == common.node",
        ),
        f"{_STORE}::test_a_save_of_another_cycle_or_node_is_refused",
    ),
    _tested(
        "save_compares_cycle: nor the node",
        _one(f"{_LUA}/session_save.lua", "local is_here = home == common.node and ", "local is_here = home and "),
        f"{_STORE}::test_a_save_of_another_cycle_or_node_is_refused",
    ),
    _tested(
        "save_compares_cycle: nor the number of the save",
        _one(f"{_LUA}/session_save.lua", "if is_here and a.number > tonumber(saved) then", "if is_here then"),
        f"{_STORE}::test_a_save_that_was_overtaken_changes_nothing",
    ),
    _tested(
        "refused_save_drops_copy",
        _one(
            _SYNC,
            "                elif session.cycle == state.cycle:\n                    self.endings.release(resident)\n",
            "                elif False:\n                    pass\n",
        ),
        f"{_HOMES}::test_who_is_refused_a_save_drops_its_copy",
    ),
    _tested(
        "save_returns_head",
        _one(f"{_LUA}/session_save.lua", "integer(tail_of(KEYS[k + 4]))", "0"),
        f"{_HOMES}::test_a_save_finds_the_events_of_which_no_notice_came",
    ),
    _tested(
        "roaming_connect_saved",
        _one(
            _MANAGER,
            "        if connect.again or resident.is_roaming:\n",
            "        if connect.again:\n",
        ),
        f"{_HOMES}::test_a_connect_of_a_session_that_roams_is_saved_when_it_comes",
    ),
    _tested(
        "roaming_saves_before_answer",
        _one(
            _MANAGER,
            "isinstance(outcome, Suspended) or not resident.is_roaming or await self._saved(resident)",
            "outcome",
        ),
        f"{_HOMES}::test_an_answer_of_a_session_that_roams_is_saved_before_it_leaves",
    ),
    _tested(
        "roaming_saves_before_answer: nor after it was suspended",
        _one(
            _MANAGER, "        if not resident.is_roaming or await self._saved(resident):\n", "        if suspended:\n"
        ),
        f"{_HOMES}::test_an_answer_of_a_session_that_roams_is_saved_before_it_leaves",
    ),
    _tested(
        "exact_cleared",
        _one(_SYNC, "is_exact=each.is_roaming if is_exact is None else is_exact)", "is_exact=True)"),
        f"{_HOMES}::test_a_session_that_settles_is_answered_from_memory_when_the_store_knows",
    ),
    _tested(
        "lapsed_take_over_verified",
        _one(
            _MANAGER,
            "resident.claimed(period)",
            "resident.claimed(self.lease.period)",
        ),
        f"{_HOMES}::test_a_take_over_during_which_the_lease_lapsed_is_verified",
    ),
    _tested(
        "lapsed_take_over_verified: nor a save",
        _one(
            _SYNC,
            "was_verified = self.lease.covers(resident.verified(period))",
            "was_verified = self.lease.covers(resident.verified(self.lease.period))",
        ),
        f"{_HOMES}::test_a_save_during_which_the_lease_lapsed_verifies_nothing",
    ),
)
PARTS: Final = (
    Mutation(
        "leaves a session claimed for ever after a take-over that failed",
        _one(_MANAGER, "if here is not None and here.session.give_up_claim() and here", "if here is not None and here"),
        test=f"{_HOMES}::test_a_session_that_a_save_verifies_during_a_claim_goes_on",
    ),
    Mutation(
        "appends the events of a commit that was refused",
        _one(
            f"{_LUA}/append.lua",
            "  if redis.call('GET', KEYS[1]) ~= ARGV[7] or redis.call('GET', KEYS[2]) ~= ARGV[8] then return {} end\n",
            "",
        ),
        test="tests/contract/test_append_with_commit.py::test_events_of_a_commit_that_is_refused_are_not_added",
    ),
    Mutation(
        "tells of a commit that the replicas do not have yet",
        _one(f"{_WORKER}/partition_owner.py", "if self._store.waits_for_replicas:", "if False:"),
        test="tests/integration/test_partition_steps.py::test_nothing_is_told_before_the_replicas_have_it",
    ),
    Mutation(
        "sends again what may have been carried out",
        _one(f"{_STORE_SOURCE}/connection.py", "again = [each for each in lost if each.idempotent]", "again = lost"),
        test="tests/unit/store/test_client.py::test_what_may_not_be_sent_again_is_sent_once",
    ),
    Mutation(
        "keeps idle connections to a server that is late",
        _one(
            f"{_STORE_SOURCE}/connection.py",
            "            await self.close_idle()\n            raise\n",
            "            raise\n",
        ),
        test="tests/unit/store/test_client.py::test_a_deadline_closes_the_idle_connections_too",
    ),
    Mutation(
        "repeats a commit by which nothing is recognised",
        _one(f"{_STORE_SOURCE}/calls.py", "replace(self._commit, idempotent=False)", "self._commit"),
        test="tests/contract/test_lost_answers.py::test_a_commit_without_an_operation_is_not_sent_again",
    ),
    Mutation(
        "keeps connections that a fail-over has made those of a replica",
        _one(f"{_STORE_SOURCE}/connection.py", "if idle is self._idle and", "if idle is not None and"),
        test="tests/unit/store/test_client.py::"
        "test_a_connection_that_was_in_use_when_others_were_closed_is_not_used_again",
    ),
    Mutation(
        "lets an operation overtake one that was refused",
        _one(
            f"{_RABBITMQ}/operation_batch.py",
            "            self._give_up(error)\n",
            "",
        ),
        test="tests/unit/broker/test_packing.py::test_nothing_overtakes_what_was_refused",
    ),
    Mutation(
        "lets operations wait for a deadline each",
        _one(
            f"{_RABBITMQ}/operation_batch.py",
            "            if now_s - self._waiting[0].since_s > self.patience_s:\n",
            "            if now_s - self._waiting[0].since_s > 1e9:\n",
        ),
        test="tests/unit/broker/test_packing.py::"
        "test_where_confirms_are_slow_nothing_waits_for_long_and_nothing_overtakes",
    ),
    Mutation(
        "serves a repeated operation from the call cache",
        _one(f"{_WORKER}/call_cache.py", " and not any(map(is_derived, operations))", ""),
        test="tests/integration/test_call_cache.py::test_what_may_well_come_again_is_looked_for_first",
    ),
    Mutation(
        "serves a blocked call from the call cache",
        _one(f"{_WORKER}/call_cache.py", "        if self._blocks != 0:\n", "        if self._blocks is None:\n"),
        test="tests/integration/test_call_cache.py::test_of_a_partition_with_marks_everything_is_read",
    ),
    Mutation(
        "does not apply again what a failover lost",
        _one(
            f"{_WORKER}/partition_owner.py",
            "            if not await self._recovery.recover(taken, self._again):\n",
            "            if taken.epoch:\n                self._recent.taken_over(taken.epoch, taken.position)\n",
        ),
        test="tests/integration/test_lost_writes.py::test_what_a_failover_lost_is_applied_again",
    ),
    Mutation(
        "empties the outbox of what may not be published",
        _one(f"{_LUA}/commit.lua", "if is_published then", "if position then"),
        test="tests/contract/test_store.py::test_a_commit_empties_the_outbox_of_what_was_published_before",
    ),
    Mutation(
        "empties the outbox of another owner",
        _one(
            f"{_LUA}/take_over.lua", "if before == ARGV[3] and position == ARGV[4] then", "if position == ARGV[4] then"
        ),
        test="tests/contract/test_store.py::"
        "test_an_owner_that_takes_over_again_empties_the_outbox_of_what_it_published",
    ),
)
ALL: Final = (*MUTATIONS, *PARTS, *HOMES)


def main() -> int:
    """Run the mutations; 1 if one was not caught, 2 if one does not fit the code."""
    options = _options()
    part, parts = map(int, options.part.split("/"))
    wanted = [each for each in ALL if options.only in each.name][part - 1 :: parts]
    strayed = astray(wanted)
    print("".join(f"{line}\n" for line in strayed), end="")
    if strayed:
        return 2
    folder = options.folder or Path(mkdtemp(prefix="calltag-mutations-"))
    rows = []
    for number, mutation in enumerate(wanted):
        rows.append((mutation.name, *_hunt(mutation, options.seeds, folder / f"mutation-{number}")))
        print(" | ".join(rows[-1]), flush=True)
    print(_table(rows))
    if options.folder is None:
        shutil.rmtree(folder)
    return 1 if any(seed == "-" for _, seed, _ in rows) else 0


def astray(mutations: Sequence[Mutation]) -> list[str]:
    """A line for each edit whose text is not in its file once."""
    counted = [(edit, _count(_ROOT, edit)) for mutation in mutations for edit in mutation.edits]
    return [f"{edit.path} has {count} times and not once: {edit.text.strip()}" for edit, count in counted if count != 1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutations", description=__doc__)
    parser.add_argument("--only", default="", help="only mutations with this in their name")
    parser.add_argument("--seeds", type=int, default=4, help="how many seeds may try to catch each")
    parser.add_argument("--part", default="1/1", help="every second one, say: 1/2, and the others: 2/2")
    parser.add_argument("--folder", type=Path, help="where to put files; a temporary folder where it is not given")
    return parser.parse_args()


def _count(root: Path, edit: Edit) -> int:
    return (root / edit.path).read_text().count(edit.text)


def _hunt(mutation: Mutation, seeds: int, folder: Path) -> tuple[str, str]:
    """The seed that caught it and the violation, or "-" and what came instead.

    A catch counts where the same run of the code as it is holds.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for each in _COPIED:
        shutil.copytree(_ROOT / each, folder / each, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    try:
        for seed in range(1, seeds + 1):
            for edit in mutation.edits:
                path = folder / edit.path
                path.write_text(path.read_text().replace(edit.text, edit.becomes))
            if mutation.test:
                return _tried(mutation, folder)
            violation = _run(mutation, seed, folder)
            for edit in mutation.edits:
                shutil.copy(_ROOT / edit.path, folder / edit.path)
            if violation and not (unmutated := _run(mutation, seed, folder)):
                return str(seed), violation
            if violation:
                return "-", f"seed {seed} breaks a promise without the mutation, too: {unmutated}"
    except _NoRecord as error:
        return "-", f"no record: {error}"
    else:
        return "-", "not caught"
    finally:
        for each in _COPIED:
            shutil.rmtree(folder / each)


def _tried(mutation: Mutation, folder: Path) -> tuple[str, str]:
    """Whether the test of the mutation fails in the changed copy, and not without the mutation."""
    if _fails(mutation.test, _ROOT):
        return "-", f"fails without the mutation, too: {mutation.test}"
    return ("test", mutation.test) if _fails(mutation.test, folder) else ("-", "not caught")


def _fails(test: str, folder: Path) -> bool:
    """Whether a test fails, where it runs without a server."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-c", str(_ROOT / "pyproject.toml"), "--rootdir", str(folder),
         "-p", "no:cacheprovider", "--timeout", "60", "-k", "fakeredis or not (redis or cluster or valkey)", test],
        cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(str(folder / each) for each in _COPIED)},
        text=True, capture_output=True, timeout=400, check=False,
    )  # fmt: skip
    if run.returncode not in {0, 1}:
        raise _NoRecord(f"{(run.stdout.strip().splitlines() or ['without a word'])[-1]}")
    return run.returncode == 1


def _run(mutation: Mutation, seed: int, folder: Path) -> str:
    """One run of the changed copy in a process of its own; the first violation, "" if all held."""
    mix = ",".join(f"{name}={weight}" for name, weight in mutation.mix.items())
    run = subprocess.run(
        [sys.executable, "-m", "chaos", "--seed", str(seed), "--seconds", str(mutation.seconds),
         "--every", str(mutation.every_s), "--calm", "15", "--few", "--mix", mix, "--folder", str(folder / "run")],
        cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(str(folder / each) for each in _COPIED)},
        text=True, capture_output=True, timeout=400, check=False,
    )  # fmt: skip
    (folder / f"seed-{seed}.log").write_text(run.stdout + run.stderr)
    violations = [line.strip() for line in run.stdout.splitlines() if line.startswith("  ") and ": " in line]
    if run.returncode not in {0, 1} or (run.returncode == 1 and not violations):
        raise _NoRecord(f"{(run.stderr.strip().splitlines() or ['without a word'])[-1]}")
    # That a service did not end cleanly may be the machine's fault.
    return next((each for each in violations if not each.startswith("note: ")), "")


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    lines = ["| mutation | caught by seed | violation |", "| --- | --- | --- |"]
    lines += [f"| {name} | {seed} | {violation[:160]} |" for name, seed, violation in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
