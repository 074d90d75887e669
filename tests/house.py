"""Measures of the structure of the code; `make check` fails when one of them grows.

Run it to see them, with `--chains` for the calls behind them. An operation is followed through gateway, worker and
notifier in one process, from the POST to the delivery over long-polling.
"""

import ast
import asyncio
import logging
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

from parts.both_in_process import Both, both_in_process
from parts.eventually import eventually

ROOT: Final = Path(__file__).parents[1]
ROOTS: Final = ("services", "shared")
CALLS: Final = "/v2/me/calls"
LEGS: Final = {
    "own frames in depth: POST": "calltag/gateway/",
    "own frames in depth: worker": "calltag/worker/",
    "own frames in depth: connect": "calltag/notifier/",
}
LIMITS: Final = {
    "modules": 180,
    "lines": 36_100,
    "modules that one AttachUserData passes": 92,
    "own frames in depth: POST": 15,
    "own frames in depth: worker": 19,
    "own frames in depth: connect": 16,
    "fields of one class that others assign": 0,
    "class names that stand for two things": 0,
}
"""Today's values, rounded up: what has been made simpler stays so."""
_MOST_TRIES: Final = 5
"""Timers that fire during an operation, as renewals do, pass some modules more."""


def sources() -> Mapping[Path, ast.Module]:
    """The syntax trees of all modules."""
    files = sorted(path for root in ROOTS for path in (ROOT / root).rglob("*.py"))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}


def static_measures() -> dict[str, int]:
    """Measures of the syntax trees."""
    trees = sources()
    classes = Counter(node.name for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef))
    return {
        "modules": len([path for path, tree in trees.items() if tree.body]),
        "lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in trees),
        "class names that stand for two things": sum(times > 1 for times in classes.values()),
        "fields of one class that others assign": max(assigned_by_others(trees).values(), default=0),
    }


def assigned_by_others(trees: Mapping[Path, ast.Module]) -> Counter[str]:
    """For each class the number of its fields that other modules assign; a field's name tells its class, or none."""
    owners: dict[str, set[tuple[str, Path]]] = defaultdict(set)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for name in fields_of(node):
                    owners[name].add((node.name, path))
    found: set[tuple[str, str]] = set()
    for path, tree in trees.items():
        for target in assigned(tree):
            owner = owners.get(target.attr, set())
            if len(owner) == 1:
                [(name, home)] = owner
                if home != path:
                    found.add((name, target.attr))
    return Counter(name for name, _ in found)


def fields_of(node: ast.ClassDef) -> Iterator[str]:
    """The fields that a class declares, or that its `__init__` assigns."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            yield each.target.id
        elif isinstance(each, ast.FunctionDef) and each.name == "__init__":
            yield from (target.attr for target in assigned(each, to_self=True))


def assigned(tree: ast.AST, *, to_self: bool = False) -> Iterator[ast.Attribute]:
    """The attributes that are assigned, of `self` or of other objects."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else ()
        if isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            for each in ast.walk(target):
                if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                    is_self = isinstance(each.value, ast.Name) and each.value.id == "self"
                    if is_self is to_self:
                        yield each


@dataclass(slots=True)
class Trace:
    """The modules and the depth of calls while it is on."""

    modules: set[str] = field(default_factory=set)
    deepest: dict[str, list[str]] = field(default_factory=dict)
    """The longest chain of own frames of each service."""

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (name := own(frame)):
            self.modules.add(name)
            chain: list[str] = []
            outer: FrameType | None = frame
            while outer is not None:
                if inner := own(outer):
                    chain.append(f"{inner}:{outer.f_code.co_name}")
                outer = outer.f_back
            for leg, part in LEGS.items():
                if any(part in each for each in chain) and len(chain) > len(self.deepest.get(leg, [])):
                    self.deepest[leg] = chain


def own(frame: FrameType) -> str:
    """The module of a frame, if it is calltag's."""
    path = frame.f_code.co_filename
    return path.partition(f"{ROOT}/")[2] if path.startswith(tuple(f"{ROOT}/{root}/" for root in ROOTS)) else ""


async def follow() -> Trace:
    """Follow one operation from the POST to its delivery, and the connect after it until it is suspended."""
    with tempfile.TemporaryDirectory() as folder:
        async with both_in_process(Path(folder), gateway={}) as centre:
            http = centre.http
            answer = await http.get("/api/v2/me", auth=("alice", "demo"))
            answer.raise_for_status()
            call_id = await dialed(centre)
            client_id = await subscribed(centre)
            waiting = asyncio.create_task(connect(centre, client_id))
            await eventually(lambda: suspended(centre))
            trace = Trace()
            sys.setprofile(trace)
            try:
                pairs = {"operationName": "AttachUserData", "userData": {"AccountNumber": "12345"}}
                (await http.post(f"/api/v2/me/calls/{call_id}", json=pairs)).raise_for_status()
                messages = await waiting
                assert any(each["channel"] == CALLS for each in messages), messages
                again = asyncio.create_task(connect(centre, client_id))
                await eventually(lambda: suspended(centre))
            finally:
                sys.setprofile(None)
            again.cancel()
            return trace


def suspended(centre: Both) -> bool:
    """Whether the session's connect is suspended."""
    residents = centre.notifier.server.sessions.registry.residents.values()
    return any(resident.suspended is not None for resident in residents)


async def dialed(centre: Both) -> str:
    """A new call of alice."""
    await centre.http.post("/api/v2/me", json={"operationName": "StartContactCenterSession", "channels": ["voice"]})
    body = {"operationName": "Dial", "destination": {"phoneNumber": "15001"}}
    device = (await centre.http.get("/api/v2/me/devices?fields=*")).json()["devices"][0]["id"]
    made = await centre.http.post(f"/api/v2/me/devices/{device}/calls", json=body, headers={"Prefer": "wait=10"})
    return str(made.json()["call"]["id"])


async def subscribed(centre: Both) -> str:
    """A session that is subscribed to the calls of alice, after its first connect."""
    hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    client_id = str((await bayeux(centre, hello))[-1]["clientId"])
    await bayeux(centre, {"channel": "/meta/subscribe", "clientId": client_id, "subscription": CALLS})
    await connect(centre, client_id)
    return client_id


async def connect(centre: Both, client_id: str) -> list[dict[str, object]]:
    """The messages of one connect."""
    return await bayeux(centre, {"channel": "/meta/connect", "clientId": client_id, "connectionType": "long-polling"})


async def bayeux(centre: Both, message: Mapping[str, object]) -> list[dict[str, object]]:
    """The answer to one Bayeux message."""
    answer = await centre.http.post("/genesys/cometd", json=[message], timeout=60)
    answer.raise_for_status()
    found: list[dict[str, object]] = answer.json()
    return found


def measures(trace: Trace) -> dict[str, int]:
    """All measures."""
    return {
        **static_measures(),
        "modules that one AttachUserData passes": len(trace.modules),
        **{leg: len(trace.deepest[leg]) for leg in LEGS},
    }


def main() -> int:
    """Print the measures; return 1 if one is beyond its limit."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for _ in range(_MOST_TRIES):
        trace = asyncio.run(follow())
        found = measures(trace)
        if not _grown(found):
            break
    for name, limit in LIMITS.items():
        print(f"{found[name]:>7,} of {limit:>7,}  {name}")
    if "--chains" in sys.argv:
        for leg, chain in trace.deepest.items():
            print(f"\n{leg}:", *reversed(chain), sep="\n  ")
        print("\nmodules:", *sorted(trace.modules), sep="\n  ")
    grown = _grown(found)
    for name in grown:
        print(f"grown: {name}: {found[name]:,}, and {LIMITS[name]:,} are allowed", file=sys.stderr)
    return int(bool(grown))


def _grown(found: Mapping[str, int]) -> list[str]:
    return [name for name, limit in LIMITS.items() if found[name] > limit]


if __name__ == "__main__":
    sys.exit(main())
