"""Automatic pipelining: scripts and commands that are called in one turn of the event loop share a round trip.

No batch waits to fill. While a pipeline is in flight, calls are queued until it returns or exceeds `_PATIENCE_S`. Each
server of a cluster has its own pipelines, so that an unavailable server does not delay calls to the others."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from calltag.core.process.limits import MAX_BATCH_BYTES, count_fitting
from calltag.core.store.client import RedisClient, Script, request_of
from calltag.core.store.connection import RedisServer, Request
from calltag.core.store.lua_script import LuaScript, lua_script
from calltag.core.store.ports import StoreUnavailable

_UNDER_WAY: Final = 4
_PATIENCE_S: Final = 0.02
"""A pipeline in flight for longer does not delay queued calls: the next one is sent concurrently."""
_MOST: Final = 500


@dataclass(slots=True)
class _Call:
    request: Request
    answer: asyncio.Future[object]

    @property
    def size_bytes(self) -> int:
        """Return the approximate size: large arguments are bytes, others are not counted."""
        return sum(len(each) for each in self.request.commands[0] if isinstance(each, bytes))


@dataclass(slots=True)
class _Lane:
    """Queue and pipelines of one server; None before the servers are known."""

    server: RedisServer | None
    waiting: list[_Call] = field(default_factory=list)
    under_way: int = 0
    about_to_send: bool = False
    impatient: asyncio.TimerHandle | None = None


class ScriptBatcher:
    """Pipelines the scripts and commands of one process. `round_trips` counts the pipelines sent."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._lanes: dict[RedisServer | None, _Lane] = {}
        self._watched: deque[tuple[float, _Call]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._senders: set[asyncio.Task[None]] = set()
        self.round_trips = 0

    def script(self, name: str) -> Script:
        """Return the Lua script of that name. Calls raise StoreUnavailable."""
        return self.calls(lua_script(name))

    def calls(self, script: LuaScript) -> Script:
        """Return the script for calling. Calls raise StoreUnavailable."""

        def run(keys: Sequence[str], args: Sequence[str | bytes | int]) -> asyncio.Future[object]:
            return self._queue(script.request(keys, args))

        return run

    def command(self, name: str, key: str, *rest: str | bytes | int) -> asyncio.Future[object]:
        """Queue one command on a key at once, and return the future of its reply. Raises StoreUnavailable."""
        return self._queue(request_of((name, key, *rest)))

    def _queue(self, request: Request) -> asyncio.Future[object]:
        call = _Call(request, asyncio.get_running_loop().create_future())
        self._watch(call)
        server = self._client.server_of(request.key)
        lane = self._lanes.get(server)
        if lane is None:
            lane = self._lanes[server] = _Lane(server)
        lane.waiting.append(call)
        self._start(lane)
        return call.answer

    def _watch(self, call: _Call) -> None:
        """Fail the call at its deadline, which includes the time in the queue.

        One timer serves all calls, as all have the same timeout.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._client.deadline_s
        # Completed calls would otherwise keep their replies in memory until the timer fires.
        while self._watched and self._watched[0][1].answer.done():
            self._watched.popleft()
        self._watched.append((ends_at, call))
        if self._timer is None:
            self._timer = loop.call_at(ends_at, self._time_passed)

    def _time_passed(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._watched:
            ends_at, call = self._watched[0]
            if not call.answer.done():
                if ends_at > loop.time():
                    self._timer = loop.call_at(ends_at, self._time_passed)
                    return
                text = f"Redis did not answer within {self._client.deadline_s:g} s"
                call.answer.set_exception(StoreUnavailable(text))
            self._watched.popleft()

    def _start(self, lane: _Lane) -> None:
        """Ensure that queued calls are sent: by the sender that runs, or by another after `_PATIENCE_S`."""
        if lane.about_to_send:
            return
        if not lane.under_way:
            self._begin(lane)
        elif lane.impatient is None:
            lane.impatient = asyncio.get_running_loop().call_later(_PATIENCE_S, self._send_beside, lane)

    def _send_beside(self, lane: _Lane) -> None:
        lane.impatient = None
        if lane.waiting and not lane.about_to_send and lane.under_way < _UNDER_WAY:
            self._begin(lane)

    def _begin(self, lane: _Lane) -> None:
        lane.about_to_send = True
        lane.under_way += 1
        task = asyncio.create_task(self._send(lane), name="script-batch")
        self._senders.add(task)
        task.add_done_callback(self._senders.discard)

    async def _send(self, lane: _Lane) -> None:
        lane.about_to_send = False
        try:
            while lane.waiting:
                count = count_fitting((each.size_bytes for each in islice(lane.waiting, _MOST)), MAX_BATCH_BYTES)
                calls, lane.waiting = lane.waiting[:count], lane.waiting[count:]
                if lane.impatient is not None:
                    lane.impatient.cancel()
                    lane.impatient = None
                wanted = [call for call in calls if not call.answer.done()]
                try:
                    await self._run(wanted)
                except Exception as error:  # noqa: BLE001 - any error has to fail the calls that wait
                    for call in wanted:
                        self._resolve(call, error)
        finally:
            # No await since the last check of the queue, so the next call starts a new sender.
            lane.under_way -= 1
            if not lane.under_way and not lane.waiting:
                # The servers of a cluster change; unused lanes would accumulate.
                del self._lanes[lane.server]

    async def _run(self, calls: Sequence[_Call]) -> None:
        if not calls:
            return
        await self._client.send([call.request for call in calls])
        self.round_trips += 1
        for call in calls:
            self._resolve(call, call.request.replies[0])

    def _resolve(self, call: _Call, answer: object) -> None:
        if call.answer.done():
            return
        if isinstance(answer, StoreUnavailable):
            call.answer.set_exception(answer)
        elif isinstance(answer, Exception):
            call.answer.set_exception(self._client.failure(answer))
        else:
            call.answer.set_result(answer)
