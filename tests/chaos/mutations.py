"""Proves that the chaos suite finds what it is there to find: calltag is broken on purpose, and a run has to show it.

`python -m chaos.mutations [--only NAME] [--folder PATH]`. Each mutation changes a copy of the tree, and its faults are
those under which the mutation matters. A mutation whose text is not found once ends the script: the code has moved on,
and the mutation has to follow.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_COPIED: Final = ("services", "shared", "tests")
_WORKER: Final = "services/calltag/worker"
_LUA: Final = "shared/calltag/core/store/lua"
_AMQP: Final = "shared/calltag/core/bus/amqp"

_SLOW_WORKERS: Final = {"slow worker:store": 4, "kill worker": 4}
_TAKE_OVERS: Final = {"belated": 1}
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
    """Something that calltag must not do; `mix` has the faults that show it."""

    name: str
    edits: Sequence[Edit]
    mix: Mapping[str, float]
    every_s: float = 1.2
    seconds: float = 12


def _one(path: str, text: str, becomes: str) -> tuple[Edit]:
    return (Edit(path, text, becomes),)


MUTATIONS: Final = (
    Mutation(
        "acknowledges an operation before it is committed",
        _one(
            f"{_WORKER}/partition_worker.py",
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
            f"{_AMQP}/consumer.py",
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
                f"{_WORKER}/folding.py",
                "return self.done.get(operation_id) or self.loaded.done.get(operation_id)",
                "return None",
            ),
            Edit(f"{_LUA}/commit.lua", "change.finished[i]) == 1 then", "change.finished[i]) == 2 then"),
        ),
        {**_SLOW_WORKERS, **_LOST_ANSWERS},
    ),
    Mutation(
        "gives a repeated request another operation id",
        _one(
            "services/calltag/gateway/idempotency.py",
            'f"{self.user}\\0{self.digest}".encode()',
            'f"{self.user}\\0{self.digest}{id(self)}".encode()',
        ),
        _LOST_ANSWERS,
    ),
    Mutation(
        "commits in an epoch that is over",
        _one(f"{_LUA}/commit.lua", "if epoch ~= take() then return {'fenced', epoch} end", "take()"),
        _TAKE_OVERS,
        every_s=4,
        seconds=24,
    ),
    Mutation(
        "does not raise the epoch with a take-over",
        _one(f"{_LUA}/take_over.lua", " + tonumber(ARGV[2]))", " + 0)"),
        _TAKE_OVERS,
        every_s=4,
        seconds=24,
    ),
    Mutation(
        "lets several workers consume a partition",
        _one(f"{_AMQP}/topology.py", '"x-single-active-consumer": True', '"x-single-active-consumer": False'),
        {"join": 3, "terminate worker": 3, "freeze worker": 3, "slow worker:store": 4},
    ),
    Mutation(
        "publishes without a confirm",
        _one(f"{_AMQP}/publisher.py", "open_channel(confirms=True)", "open_channel(confirms=False)"),
        {"slow gateway:broker": 4, "cut gateway:broker": 6, "stall gateway:broker": 2, "kill gateway": 2},
    ),
    Mutation(
        "answers before the broker has confirmed",
        _one(
            "services/calltag/gateway/submission.py",
            "        await self._publish(operations, wait=False)",
            "        self.__class__.later = asyncio.ensure_future(self._publish(operations, wait=False))",
        ),
        {"slow gateway:broker": 4, "cut gateway:broker": 6, "stall gateway:broker": 2, "kill gateway": 2},
    ),
    Mutation(
        "answers although the broker did not take it",
        _one("services/calltag/gateway/submission.py", "        if failures:\n", "        if failures and wait:\n"),
        {"cut gateway:broker": 3, "stall gateway:broker": 3},
    ),
    Mutation(
        "does not keep the events with the change",
        _one(f"{_LUA}/commit.lua", "for _, event in ipairs(events) do", "for _, event in ipairs({}) do"),
        _SLOW_WORKERS,
    ),
    Mutation(
        "takes over without sending what was kept",
        _one(f"{_WORKER}/ownership.py", "            if taken.kept:\n", "            if not taken.epoch:\n"),
        _SLOW_WORKERS,
    ),
    Mutation(
        "tells of a change before it is committed",
        _one(
            f"{_WORKER}/ownership.py",
            "        began = time.perf_counter()\n",
            "        began = time.perf_counter()\n"
            "        await self._outgoing.send(Sending((), list(zip(folded.events, folded.encoded)), ()))\n",
        ),
        {"slow worker:store": 4, "stall worker:store": 2},
    ),
    Mutation(
        "goes on after a commit of which the outcome is not known",
        _one(
            f"{_WORKER}/partition_worker.py",
            "                self._ownership.doubt()\n                conflicts += ",
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
        _one("shared/calltag/core/bayeux/feed.py", "            raise Gap\n", "            pass\n"),
        {"forget notifier": 2, "cut notifier:broker": 3, "stall notifier:broker": 3, "kill worker": 1},
    ),
    Mutation(
        "forgets at a reconnect what the client lacks",
        _one(f"{_LUA}/session_attach.lua", "local after = confirmed\n", "local after = sent\n"),
        {"slow notifier:clients": 6, "cut notifier:clients": 4, "kill notifier": 2},
    ),
    Mutation(
        "does not give a session what it missed while away",
        _one(
            "services/calltag/notifier/cometd/connects.py",
            "self.feeding.take_in(session, attached.entries, ",
            "self.feeding.take_in(session, attached.entries[1:], ",
        ),
        {"kill notifier": 3, "cut notifier:clients": 3},
    ),
)


def main() -> int:
    """Run the mutations; 1 if one was not caught, 2 if one does not fit the code."""
    options = _options()
    part, parts = map(int, options.part.split("/"))
    wanted = [each for each in MUTATIONS if options.only in each.name][part - 1 :: parts]
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
