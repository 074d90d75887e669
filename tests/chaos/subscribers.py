"""CometD clients that come to one notifier or another, and write down what they get."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from chaos.record import Data, Reading, Received, Subscriber
from chaos.senders import Person
from chaos.transports import JSON, Broken, LongPolling, Transport, WebSocket

_PAUSE_S: Final = 0.1
_NEW_ONLY: Final = -1
_ALL: Final = -2


class _Refused(Exception):
    """The notifier did not do what was asked."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How a client behaves: when it comes (0: before the calls begin), and when it is away, for how long; in seconds.

    One that watches subscribes to the calls `of` another user. One that is `fickle` does not resume its session after
    it was away, but begins a new one after the last event.
    """

    acknowledges: bool = True
    websocket: bool = False
    comes_at_s: float = 0.0
    away: Sequence[tuple[float, float]] = ()
    fickle: bool = False
    of: str = ""


class Client:
    """One user's subscription to all calls of the user's."""

    def __init__(self, name: str, person: Person, notifiers: Sequence[str], habits: Habits, random: Random) -> None:
        self.name = name
        self.user = person.user
        self.sees = habits.of or person.user
        """The user whose calls it is told of."""
        self._person = person
        self._reading: asyncio.Task[None] | None = None
        self._readings: list[Reading] = []
        self._habits = habits
        self._random = random
        self._notifiers = notifiers
        self._notifier = random.choice(notifiers)
        self._transport: Transport = (WebSocket if habits.websocket else LongPolling)(person.user, self._take)
        self._client_id = ""
        self._batch = 0
        self._failed = True
        self._last = _ALL if habits.comes_at_s else _NEW_ONLY
        self.subscribed = asyncio.Event()
        self.missed = 0
        self.received: list[Received] = []
        self.versions: dict[str, int] = {}
        """The highest version seen of each call."""

    @property
    def _channel(self) -> str:
        return f"/v2/users/{self._habits.of}/calls" if self._habits.of else "/v2/me/calls"

    def record(self, calls: Sequence[str]) -> Subscriber:
        return Subscriber(self.name, self.user, calls, self.received, missed=self.missed, readings=self._readings,
                          calls_of=self._habits.of)  # fmt: skip

    async def run(self) -> None:
        """Connect again and again for as long as the task runs."""
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(self._habits.comes_at_s)
        away = list(self._habits.away)
        try:
            while True:
                if away and asyncio.get_running_loop().time() - began > away[0][0]:
                    await asyncio.sleep(away.pop(0)[1])
                    self._client_id = "" if self._habits.fickle else self._client_id
                try:
                    if not self._client_id:
                        await self._begin()
                    await self._connect()
                except (Broken, _Refused):
                    self._failed = True
                    others = [each for each in self._notifiers if each != self._notifier]
                    self._notifier = self._random.choice(others or self._notifiers)
                    await self._transport.leave()
                    await asyncio.sleep(_PAUSE_S)
        finally:
            if self._reading is not None:
                self._reading.cancel()
            await self._transport.close()

    async def _begin(self) -> None:
        ext = {"ext": {"ack": True}} if self._habits.acknowledges else {}
        shaken = await self._send({"channel": "/meta/handshake", "version": "1.0",
                                   "supportedConnectionTypes": [self._transport.name], **ext})  # fmt: skip
        client_id = shaken["clientId"]
        await self._send({"channel": "/meta/subscribe", "clientId": client_id, "subscription": self._channel,
                          "ext": {"replay": {self._channel: self._last}}})  # fmt: skip
        self._client_id, self._batch, self._failed = client_id, 0, True
        # Whoever has seen nothing yet and has to begin anew wants all there is.
        self._last = _ALL if self._last == _NEW_ONLY else self._last
        self.subscribed.set()

    async def _connect(self) -> None:
        message: JSON = {
            "channel": "/meta/connect",
            "clientId": self._client_id,
            "connectionType": self._transport.name,
        }
        if self._failed:
            # So do the official clients after a failure.
            message["advice"] = {"timeout": 0}
        if self._habits.acknowledges:
            message["ext"] = {"ack": self._batch}
        reply = await self._send(message)
        self._failed = False
        # Not with every connect: one that stays away would be met by every second one, and each of these is a failure.
        if not self._transport.stays:
            self._notifier = self._random.choice(self._notifiers)
        ext = reply.get("ext", {})
        self._batch = ext.get("ack", 0)
        self.missed += bool(ext.get("calltag", {}).get("missed"))

    async def _send(self, message: JSON) -> JSON:
        reply = await self._transport.exchange(self._notifier, message)
        if not reply.get("successful"):
            if reply.get("advice", {}).get("reconnect") == "handshake":
                self._client_id = ""
            raise _Refused(str(reply))
        return reply

    def _take(self, message: JSON) -> None:
        data, told = message["data"], message["ext"]["calltag"]
        call = data["call"]["id"] if "call" in data else data["callId"]
        seen: Data = {}
        if "call" in data:
            seen = as_data(data["call"])
            self.versions[call] = max(self.versions.get(call, 0), told["version"])
            self._look(call, told["version"])
        self._last = max(self._last, told["replayId"])
        self.received.append(Received(call, told["eventId"], told["replayId"], told.get("version"), seen))

    def _look(self, call: str, version: int) -> None:
        """Read the call that a message came about, unless that is being done."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(call, version))

    async def _read(self, call: str, version: int) -> None:
        data = await read_call(self._person, call, time.monotonic())
        if data is not None:
            self._readings.append(Reading(call, version, data))


async def read_call(person: Person, call: str, until: float) -> Data | None:
    """The user data of a call as a user reads it; None if there is no answer until then."""
    response, _ = await person.ask("GET", f"/me/calls/{call}", until)
    if response is None or response.status_code != 200:
        return None
    return as_data(response.json()["call"])


def as_data(call: JSON) -> Data:
    """User data in which every key has a list of values."""
    pairs: JSON = call.get("userData", {})
    return {key: value if isinstance(value, list) else [value] for key, value in pairs.items()}
