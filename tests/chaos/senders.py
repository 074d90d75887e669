"""Clients that operate on calls, one operation after another, and write down what they were answered."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

import httpx

from chaos.record import Kind, Operation, Outcome

_KINDS: Final[Mapping[Kind, float]] = {"attach": 12, "update": 3, "delete": 2, "forbidden": 1, "impossible": 1}
_TRY_S: Final = 6.0
_PAUSE_S: Final = 0.3
_TOO_LONG_KEY: Final = "k" * 300


class Person:
    """A signed-in user, who sends each request to some gateway."""

    def __init__(self, user: str, gateways: Sequence[str], random: Random) -> None:
        self.user = user
        self._gateways = gateways
        self._random = random
        self._http = httpx.AsyncClient(timeout=_TRY_S, limits=httpx.Limits(max_connections=200))
        self._signing_in = asyncio.Lock()
        self._signed_in = False
        self.patient_until = math.inf
        """When it gives up on what it insists on (monotonic); known once all faults are over."""

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(
        self, method: str, path: str, until: float | None = None, **request: Any
    ) -> tuple[httpx.Response | None, int]:
        """Ask until there is a definite answer, or until that time (monotonic); returns it with how often was asked.

        Without a time it asks for as long as it is patient.

        A timeout, a broken connection, HTTP 5xx and "accepted, outcome not known" leave open what has happened.
        """
        tries = 0
        while True:
            tries += 1
            try:
                await self._sign_in()
                gateway = self._random.choice(self._gateways)
                response = await self._http.request(method, f"{gateway}/api/v2{path}", **request)
                if response.status_code == 401:
                    self._signed_in = False
                elif response.status_code < 500 and response.status_code != 202:
                    return response, tries
            except httpx.HTTPError:
                pass
            if time.monotonic() > (self.patient_until if until is None else until):
                return None, tries
            await asyncio.sleep(_PAUSE_S)

    async def _sign_in(self) -> None:
        async with self._signing_in:
            if not self._signed_in:
                gateway = self._random.choice(self._gateways)
                answer = await self._http.get(f"{gateway}/api/v2/me", auth=(self.user, "demo"))
                self._signed_in = answer.status_code == 200


class Sender:
    """Sends operations on one call, each when the one before has its answer."""

    def __init__(self, person: Person, call: str, name: str, seed: int, *, stranger: bool = False) -> None:
        self._person = person
        self.call = call
        self.name = name
        self._random = Random(f"sender {seed} {call} {name}")
        self._stranger = stranger
        self._seed = seed
        self.operations: list[Operation] = []

    async def run(self, over: asyncio.Event, every_s: float, most: int) -> None:
        """Send until all is over, `most` operations at most; the last one is insisted on."""
        while not over.is_set() and len(self.operations) < most:
            began = time.monotonic()
            kind = self._random.choices(list(_KINDS), list(_KINDS.values()))[0]
            wait = self._random.random() < 0.15
            await self.send("forbidden" if self._stranger else kind, wait=wait)
            pause_s = every_s * self._random.uniform(0.2, 1.8) - (time.monotonic() - began)
            await asyncio.sleep(max(pause_s, 0))

    async def send(self, kind: Kind, *, wait: bool) -> Outcome:
        """Send the next operation; what has no definite answer when patience ends is unknown."""
        number = len(self.operations)
        value = f"{self.name}-{number}"
        headers = {"Idempotency-Key": f"{self._seed}-{self.call}-{value}"}
        # Where the outcome is waited for, an impossible operation is not accepted but refused.
        if wait and kind != "impossible":
            headers["Prefer"] = "wait=2"
        body = self._body(kind, value)
        response, tries = await self._person.ask("POST", f"/me/calls/{self.call}", json=body, headers=headers)
        if response is None:
            outcome: Outcome = "unknown"
        else:
            outcome = "accepted" if response.json()["statusCode"] == 0 else "refused"
        self.operations.append(Operation(self.call, self.name, number, kind, outcome, self._person.user, tries))
        return outcome

    def _body(self, kind: Kind, value: str) -> Mapping[str, object]:
        match kind:
            case "attach":
                return {"operationName": "AttachUserData", "userData": {"log": value, self.name: value}}
            case "update":
                return {"operationName": "UpdateUserData", "userData": {self.name: value}}
            case "delete":
                return {"operationName": "DeleteUserDataPair", "key": self.name}
            case "impossible":
                return {"operationName": "Retrieve"}
            case "forbidden":
                data = {"log": value} if self._stranger else {"log": value, _TOO_LONG_KEY: value}
                return {"operationName": "AttachUserData", "userData": data}
