"""Calls that belong together, one family after another: a customer's call, a consult call, and how they are joined."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final, Literal

from chaos.record import Data, Ending, Family, Outcome, Related, Step
from chaos.senders import Person

_POLL_S: Final = 0.1
_BOB: Final = {"phoneNumber": "15001"}
_CUSTOMER: Final = "0891234"
_CHANGES: Final = 3
ENDINGS: Final[Mapping[Ending, Sequence[str]]] = {
    "transfer": ("bob",),
    "conference": ("alice", "bob"),
    "merged": ("bob",),
    "removed": ("alice",),
    "alone": ("alice",),
    "single step": ("bob",),
    "one more": ("alice", "bob"),
}
"""Endings of a family, each with the users who are on the customer's call afterwards."""


class Families:
    """Alice consults bob about a customer's call, again and again; both change user data meanwhile."""

    def __init__(self, people: Mapping[str, Person], name: str, seed: int) -> None:
        self._people = people
        self._name = name
        self._seed = seed
        self._random = Random(f"families {seed} {name}")
        self._steps: list[Step] = []
        self._refused: list[str] = []
        self._is_known = True
        self.families: list[Family] = []

    async def run(self, over: asyncio.Event, most: int) -> None:
        """Go on until all is over; the family under way is brought to its end."""
        while not over.is_set() and len(self.families) < most:
            await self._family(f"{self._name}-{len(self.families)}")

    async def _family(self, main: str) -> None:
        self._steps, self._refused, self._is_known = [], [], True
        ending = self._random.choice(list(ENDINGS))
        consult = ""
        if await self._begin(main):
            await self._change("alice", main, "main", ["kept", "shared", "gone"])
            consult = await self._consult(main)
        if consult:
            await self._talk(main, consult)
            await self._end(main, consult, ending)
        known = self._is_known and bool(consult) and all(each.outcome != "unknown" for each in self._steps)
        self.families.append(Family(main, consult, ending, tuple(self._steps), known, tuple(self._refused)))

    async def settle(self) -> None:
        """Report each customer's call once more, so that a worker takes it over who owns its partition by now."""
        party = {"phoneNumber": _CUSTOMER, "state": "Established"}
        facts = [
            {"eventId": f"last-{each.main}", "eventType": "PartyChanged", "id": each.main, "parties": [party]}
            for each in self.families
        ]
        await asyncio.gather(*map(self._facts, facts))

    async def _begin(self, main: str) -> bool:
        parties = [{"phoneNumber": number, "state": "Established"} for number in (_CUSTOMER, "15000")]
        fact = {"eventId": f"begin-{main}", "eventType": "CallStarted", "id": main, "parties": parties}
        return await self._facts(fact)

    async def _facts(self, fact: Mapping[str, Any]) -> bool:
        asking = self._people["switch"].ask("POST", "/switch/events", json=fact, headers={"Prefer": "wait=2"})
        response, _ = await asking
        # What was not answered in time may be known already when it is sent again.
        return response is not None and response.json()["statusCode"] in {0, 18}

    async def _consult(self, main: str) -> str:
        """Begin the consult call, and return its id; "" if it is not there in time."""
        pairs = self._pairs(["why"])
        begin = self._random.choice(["InitiateTransfer", "InitiateConference"])
        if not await self._do("alice", main, begin, {"destination": _BOB, "userData": pairs}):
            return ""
        self._steps.append(Step("main", "consult", _data(pairs), "accepted"))
        consult = await self._found(main)
        if consult and not await self._do("bob", consult, "Answer"):
            return ""
        return consult

    async def _found(self, main: str) -> str:
        until = time.monotonic() + 60
        while time.monotonic() < min(until, self._people["alice"].patient_until):
            response, _ = await self._people["alice"].ask("GET", "/me/calls", params={"fields": "id,parentCallUri"})
            listed = [] if response is None else response.json()["calls"]
            for each in listed:
                if each.get("parentCallUri", "").endswith(f"/{main}"):
                    return str(each["id"])
            await asyncio.sleep(_POLL_S)
        return ""

    async def _talk(self, main: str, consult: str) -> None:
        """Both calls change, each by users of its own; no order between the two is asked for."""
        await asyncio.gather(
            self._change("alice", main, "main", ["shared", "log-a"]),
            self._change("bob", consult, "consult", ["shared", "log-b"]),
            self._change("alice", consult, "consult", ["own"], deletes="gone"),
        )
        for _ in range(self._random.randrange(3)):
            active = self._random.choice([main, consult])
            other = consult if active == main else main
            await self._do("alice", active, "SwapCalls", {"otherCallUri": other})

    async def _end(self, main: str, consult: str, ending: Ending) -> None:
        """Join the calls while both still change, or end the consult call; then go on with the main call."""
        joins = ending not in {"alone", "single step", "one more"}
        finishing = self._join(main, consult, ending) if joins else self._do("bob", consult, "Hangup")
        # Those that come before the end take part in it; those that come after it are refused.
        done, *late = await asyncio.gather(
            finishing,
            self._late("alice", main, "main", "late-a"),
            self._late("bob", consult, "consult", "late-b"),
        )
        self._steps += late
        ended: Outcome = "accepted" if done else "unknown"
        self._steps.append(Step("main", "join", {}, ended) if joins else Step("consult", "hangup", {}, ended))
        if ending == "removed":
            done = await self._do("alice", main, "RemoveParticipantFromConference", {"participant": "15001"})
        elif ending in {"single step", "one more"}:
            pairs = self._pairs(["step"])
            name = "SingleStepTransfer" if ending == "single step" else "SingleStepConference"
            done = await self._do("alice", main, name, {"destination": _BOB, "userData": pairs})
            self._steps.append(Step("main", "update", _data(pairs), "accepted" if done else "unknown"))
        self._is_known = self._is_known and done
        await self._change(ENDINGS[ending][0], main, "main", ["log-after", "kept"])

    async def _join(self, main: str, consult: str, ending: Ending) -> bool:
        if ending == "merged":
            fact = {"eventId": f"merged-{main}", "eventType": "CallsMerged", "id": main, "partOf": main,
                    "mergedId": consult, "parties": [{"phoneNumber": "15000", "state": "Released"}]}  # fmt: skip
            return await self._facts(fact)
        name = "CompleteTransfer" if ending == "transfer" else "CompleteConference"
        return await self._do("alice", self._random.choice([main, consult]), name)

    async def _late(self, user: str, call: str, which: Related, key: str) -> Step:
        """Attach at the moment of the end."""
        pairs = self._pairs([key])
        outcome = await self._outcome(user, call, "AttachUserData", {"userData": pairs})
        return Step(which, "attach", _data(pairs), outcome)

    # -- user data -----------------------------------------------------------------------------------------------------

    async def _change(self, user: str, call: str, which: Related, keys: Sequence[str], deletes: str = "") -> None:
        """Attach, update, and perhaps delete, one after another."""
        for number in range(_CHANGES):
            key = keys[number % len(keys)]
            kind: Literal["attach", "update"] = "attach" if key.startswith("log") else "update"
            pairs = self._pairs([key])
            name = "AttachUserData" if kind == "attach" else "UpdateUserData"
            done = await self._do(user, call, name, {"userData": pairs})
            self._steps.append(Step(which, kind, _data(pairs), "accepted" if done else "unknown"))
        if deletes:
            done = await self._do(user, call, "DeleteUserDataPair", {"key": deletes})
            self._steps.append(Step(which, "delete", {deletes: []}, "accepted" if done else "unknown"))

    def _pairs(self, keys: Sequence[str]) -> Mapping[str, str]:
        return {key: f"{key}-{self._random.randrange(10**9)}" for key in keys}

    async def _do(self, user: str, call: str, name: str, parameters: Mapping[str, Any] | None = None) -> bool:
        """Whether an operation took effect, which has to; asked for until there is a definite answer."""
        outcome = await self._outcome(user, call, name, parameters or {})
        # A call that is active already cannot be swapped, and stays as it is.
        if outcome == "refused" and name != "SwapCalls":
            self._refused.append(f"{name} of {user}")
        return outcome == "accepted"

    async def _outcome(self, user: str, call: str, name: str, parameters: Mapping[str, Any]) -> Outcome:
        headers = {"Idempotency-Key": f"{self._seed}-{self._random.randrange(10**12)}", "Prefer": "wait=3"}
        body = {"operationName": name, **parameters}
        response, _ = await self._people[user].ask("POST", f"/me/calls/{call}", json=body, headers=headers)
        if response is None:
            return "unknown"
        return "accepted" if response.json()["statusCode"] == 0 else "refused"


def _data(pairs: Mapping[str, str]) -> Data:
    return {key: [value] for key, value in pairs.items()}
