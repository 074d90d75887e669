"""One run: everything starts, clients work while the scheduled faults happen, all heals, and the record is read."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Final

from chaos.families import ENDINGS, Families
from chaos.installation import Installation
from chaos.record import Family, Record
from chaos.record import Final as FinalCall
from chaos.remains import StoreReader, parked, waiting
from chaos.schedule import ALL, SERVICES, Mix, Step, schedule
from chaos.senders import Person, Sender
from chaos.subscribers import Client, Habits, read_call
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer

PARTIES: Final[Mapping[str, Sequence[str]]] = {
    "BOTH-1": ("alice", "bob"),
    "ALICE": ("alice",),
    "BOB": ("bob",),
    "BOTH-2": ("bob", "alice"),
}
"""The calls, and who is on each."""
_NUMBERS: Final = {"alice": "15000", "bob": "15001"}
_SENDERS_PER_CALL: Final = 3
_FEW: Final = ("steady", "plain", "bob", "watcher")
"""The subscribers of an installation with few services."""
_OPERATIONS_PER_SENDER: Final = 150
_FASTEST_S: Final = 0.12
_PATIENCE_S: Final = 45.0
_MOST_FAMILIES: Final = 12


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is made of; all of it follows from the seed."""

    seed: int
    seconds: float = 30.0
    mix: Mix = field(default_factory=lambda: ALL)
    every_s: float = 1.5
    services: Sequence[str] = SERVICES
    calm_s: float = 30.0
    """How long everything may take to come to rest; what is missing then is missing."""

    @property
    def steps(self) -> list[Step]:
        return schedule(self.seed, self.seconds, self.mix, every_s=self.every_s, services=self.services)

    def text(self) -> str:
        """What is going to happen, line by line."""
        return "\n".join([f"seed {self.seed}, {self.seconds:g} s", *map(str, self.steps)])

    def habits(self) -> Mapping[str, tuple[str, Habits]]:
        """The subscribers, each with its user."""
        random = Random(f"subscribers {self.seed}")

        def absence(longest_s: float) -> tuple[tuple[float, float]]:
            return ((random.uniform(0.1, 0.6) * self.seconds, random.uniform(1, longest_s)),)

        all_of_them = {
            "steady": ("alice", Habits()),
            "plain": ("alice", Habits(acknowledges=False)),
            "absent": ("alice", Habits(away=absence(6))),
            "late": ("alice", Habits(random.random() < 0.5, comes_at_s=random.uniform(0.2, 0.7) * self.seconds)),
            "socket": ("alice", Habits(websocket=True, away=absence(4))),
            "plain-socket": ("bob", Habits(acknowledges=False, websocket=True)),
            "fickle": ("alice", Habits(away=(*absence(3), *absence(3)), fickle=True)),
            "bob": ("bob", Habits()),
            "watcher": ("carol", Habits(of="alice")),
            "bob-plain": ("bob", Habits(acknowledges=False, away=absence(15))),
        }
        return all_of_them if self.services == SERVICES else {name: all_of_them[name] for name in _FEW}


async def run(plan: Plan, folder: Path, broker: RabbitMq) -> Record:
    """Carry out a plan on a broker that is running; the store is the run's own."""
    # What the store has answered must not be lost: that is where the promises end.
    # And it tells what is written, which some faults wait for.
    store = RedisServer(folder, "--appendfsync", "always", "--notify-keyspace-events", "K$")
    await asyncio.to_thread(store.start)
    installation = Installation(folder, broker, store, f"c{plan.seed}-{int(time.time() * 1000) % 10**9}", plan.services)
    try:
        async with installation.running():
            return await _Run(plan, installation).record()
    finally:
        store.process.kill()


class _Run:
    def __init__(self, plan: Plan, installation: Installation) -> None:
        self._plan = plan
        self._installation = installation
        gateways = installation.urls("gateway")
        self._people = {
            user: Person(user, gateways, Random(f"{user} {plan.seed}")) for user in ("alice", "bob", "carol", "switch")
        }
        self._senders = [
            Sender(self._people[parties[number % len(parties)]], call, f"sender{number}", plan.seed)
            for call, parties in PARTIES.items()
            for number in range(_SENDERS_PER_CALL)
        ]
        self._consulting = [Families(self._people, name, plan.seed) for name in ("FAMILY-1", "FAMILY-2")]
        self._families: list[Family] = []
        self._stranger = Sender(self._people["bob"], "ALICE", "stranger", plan.seed, stranger=True)
        self._last = [Sender(self._people[PARTIES[call][0]], call, "last", plan.seed) for call in PARTIES]
        self._clients = [
            Client(name, self._people[user], installation.urls("notifier"), habits, Random(f"{name} {plan.seed}"))
            for name, (user, habits) in plan.habits().items()
        ]

    async def record(self) -> Record:
        """Begin, work under fire, come to rest, and read what there is."""
        async with asyncio.TaskGroup() as group:
            connecting = [group.create_task(each.run(), name=each.name) for each in self._clients]
            early = [each for each in self._clients if not self._plan.habits()[each.name][1].comes_at_s]
            for each in early:
                async with asyncio.timeout(60):
                    await each.subscribed.wait()
            await self._begin_calls()
            await self._under_fire()
            finals = await self._at_rest()
            for task in connecting:
                task.cancel()
        for person in self._people.values():
            await person.close()
        await self._installation.stop()
        return Record(
            seed=self._plan.seed,
            families=self._families,
            operations=[each for sender in self._all_senders for each in sender.operations],
            subscribers=[
                each.record([call for call, parties in PARTIES.items() if each.sees in parties])
                for each in self._clients
            ],
            finals=finals,
            parked=await parked(self._installation.broker.url, self._installation.prefix),
            unsent=self._store.unsent(),
            notes=self._installation.notes,
            faults=dict(self._installation.hit),
            failed_faults=dict(self._installation.failed),
        )

    @property
    def _all_senders(self) -> Sequence[Sender]:
        return [*self._senders, self._stranger, *self._last]

    @property
    def _store(self) -> StoreReader:
        return StoreReader(self._installation.store.port)

    async def _begin_calls(self) -> None:
        facts = [
            {"eventId": f"begin-{call}", "eventType": "CallStarted", "id": call,
             "parties": [{"phoneNumber": _NUMBERS[user], "state": "Established"} for user in parties]}
            for call, parties in PARTIES.items()
        ]  # fmt: skip
        asking = self._people["switch"].ask(
            "POST", "/switch/events", time.monotonic() + 60, json=facts, headers={"Prefer": "wait=10"}
        )
        response, _ = await asking
        assert response is not None, "the calls do not begin"
        assert response.json() == {"statusCode": 0}, response.text

    async def _under_fire(self) -> None:
        over, ends = asyncio.Event(), time.monotonic() + self._plan.seconds
        every_s = max(self._plan.seconds / _OPERATIONS_PER_SENDER, _FASTEST_S)
        async with asyncio.TaskGroup() as group:
            for families in self._consulting:
                group.create_task(families.run(over, _MOST_FAMILIES))
            for sender in (*self._senders, self._stranger):
                slower = 5 if sender is self._stranger else 1
                group.create_task(sender.run(over, every_s * slower, _OPERATIONS_PER_SENDER), name=sender.name)
            await self._installation.play(self._plan.steps)
            await asyncio.sleep(max(ends - time.monotonic(), 0))
            over.set()
            self._be_patient()

    def _be_patient(self) -> None:
        for person in self._people.values():
            person.patient_until = time.monotonic() + _PATIENCE_S

    async def _at_rest(self) -> list[FinalCall]:
        """Everything is healed and answered: what is under way comes to its end."""
        self._be_patient()
        await asyncio.gather(*(each.settle() for each in self._consulting))
        outcomes = await asyncio.gather(*(each.send("attach", wait=True) for each in self._last))
        self._installation.notes += [
            f"call {sender.call}: its last operation was not carried out"
            for sender, outcome in zip(self._last, outcomes, strict=True)
            if outcome != "accepted"
        ]
        # What is missing then is for the checker to say.
        with suppress(AssertionError):
            await eventually(self._is_quiet, within_s=self._plan.calm_s)
        self._families = [await self._ended(each) for one in self._consulting for each in one.families]
        return [await self._final(call, parties[0]) for call, parties in PARTIES.items()]

    async def _ended(self, family: Family) -> Family:
        """The family with its calls as they are at the end."""
        if not family.known:
            return family
        reader = ENDINGS[family.ending][0]
        finals = {
            family.main: await self._final(family.main, reader),
            family.consult: await self._final(family.consult, "bob"),
        }
        states = {each: await self._people["bob" if each == family.consult else reader].ask("GET", f"/me/calls/{each}",
                        time.monotonic() + _PATIENCE_S) for each in finals}  # fmt: skip
        released = {
            each: answer is not None and answer.json()["call"]["state"] == "Released"
            for each, (answer, _) in states.items()
        }
        return replace(family, finals=finals, released=released, parties=ENDINGS[family.ending])

    def _is_told(self, family: Family) -> bool:
        """Return whether each client has received the last version of the calls that it sees to their end."""
        if not family.known:
            return True
        users = {family.main: ENDINGS[family.ending], family.consult: ("alice", "bob")}
        return all(
            each.versions.get(call) == self._store.call(call)[0]
            for call, parties in users.items()
            for each in self._clients
            if each.sees in parties
        )

    async def _is_quiet(self) -> bool:
        if self._store.unsent() or await waiting(self._installation.broker.url, self._installation.prefix):
            return False
        if not all(self._is_told(each) for one in self._consulting for each in one.families):
            return False
        versions = {call: self._store.call(call)[0] for call in PARTIES}
        return all(
            each.versions.get(call) == version
            for each in self._clients
            for call, version in versions.items()
            if each.sees in PARTIES[call]
        )

    async def _final(self, call: str, user: str) -> FinalCall:
        read = await read_call(self._people[user], call, time.monotonic() + _PATIENCE_S)
        assert read is not None, f"call {call} cannot be read"
        version, stored = await asyncio.to_thread(self._store.call, call)
        return FinalCall(call, read, stored, version)
