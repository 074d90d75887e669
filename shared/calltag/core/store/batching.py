"""Scripts and commands that share round trips: what is called while the loop turns once goes to Redis in one pipeline.

Nothing waits for a batch to fill. While a pipeline is under way, calls gather until it returns, or has taken too long.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Final

from redis.exceptions import NoScriptError, ResponseError

from calltag.core.store.client import RedisClient, Script, script_source
from calltag.core.store.ports import StoreError, StoreUnavailable

_UNDER_WAY: Final = 4
_PATIENCE_S: Final = 0.02
"""A pipeline that takes longer does not hold up what came since: another one is sent beside it."""
_MOST: Final = 500


@dataclass(slots=True)
class _Call:
    command: Sequence[str | bytes | int]
    answer: asyncio.Future[object]
    whole: Sequence[str | bytes | int] | None = None
    """What to send instead where the server does not know the script of the command."""


class ScriptBatcher:
    """Runs scripts for one process. `round_trips` counts the pipelines that were sent."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._waiting: list[_Call] = []
        self._under_way = 0
        self._about_to_send = False
        self._impatient: asyncio.TimerHandle | None = None
        self._watched: deque[tuple[float, _Call]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._senders: set[asyncio.Task[None]] = set()
        self.round_trips = 0

    def script(self, name: str) -> Script:
        """The Lua script of that name. Calls raise StoreUnavailable."""
        return self.source(script_source(name))

    def source(self, source: str) -> Script:
        """The script with that text. Calls raise StoreUnavailable."""
        digest = sha1(source.encode(), usedforsecurity=False).hexdigest()

        async def run(keys: Sequence[str], args: Sequence[str | bytes | int]) -> object:
            return await self._answer(
                ("EVALSHA", digest, len(keys), *keys, *args), ("EVAL", source, len(keys), *keys, *args)
            )

        return run

    async def command(self, *command: str | bytes | int) -> object:
        """The answer to one command. Raises StoreUnavailable."""
        return await self._answer(command)

    async def _answer(
        self, command: Sequence[str | bytes | int], whole: Sequence[str | bytes | int] | None = None
    ) -> object:
        call = _Call(command, asyncio.get_running_loop().create_future(), whole)
        self._waiting.append(call)
        self._watch(call)
        self._start()
        return await call.answer

    def _watch(self, call: _Call) -> None:
        """See to it that the call is over when its time is; waiting for its turn counts, too.

        One timer serves all, as all have the same time.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._client.deadline_s
        # What is answered would otherwise be kept, with its answer, until the timer comes to it.
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

    def _start(self) -> None:
        """See to it that somebody sends what waits: the one who is about to, or who is under way, or another one."""
        if self._about_to_send:
            return
        if not self._under_way:
            self._begin()
        elif self._impatient is None:
            self._impatient = asyncio.get_running_loop().call_later(_PATIENCE_S, self._send_beside)

    def _send_beside(self) -> None:
        self._impatient = None
        if self._waiting and not self._about_to_send and self._under_way < _UNDER_WAY:
            self._begin()

    def _begin(self) -> None:
        self._about_to_send = True
        self._under_way += 1
        task = asyncio.create_task(self._send(), name="script-batch")
        self._senders.add(task)
        task.add_done_callback(self._senders.discard)

    async def _send(self) -> None:
        self._about_to_send = False
        try:
            while self._waiting:
                calls, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                if self._impatient is not None:
                    self._impatient.cancel()
                    self._impatient = None
                wanted = [call for call in calls if not call.answer.done()]
                try:
                    await self._run(wanted)
                except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it is
                    for call in wanted:
                        _settle(call, error)
        finally:
            # In the same step as the last look at what waits: whoever comes next starts another.
            self._under_way -= 1

    async def _run(self, calls: Sequence[_Call], *, whole: bool = False) -> None:
        """Send the calls, scripts by their digests, and once more with the whole scripts where they are unknown."""
        if not calls:
            return
        pipeline = self._client.pipeline()
        for call in calls:
            pipeline.execute_command(*(call.whole if whole and call.whole is not None else call.command))
        async with self._client.exchange():
            answers: list[object] = await pipeline.execute(raise_on_error=False)
        self.round_trips += 1
        unknown = []
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, NoScriptError) and not whole:
                unknown.append(call)
            else:
                _settle(call, answer)
        await self._run(unknown, whole=True)


def _settle(call: _Call, answer: object) -> None:
    if call.answer.done():
        return
    if isinstance(answer, StoreError):
        call.answer.set_exception(answer)
    elif isinstance(answer, ResponseError):
        call.answer.set_exception(StoreUnavailable(f"Redis refused a script: {answer}"))
    elif isinstance(answer, Exception):
        call.answer.set_exception(StoreUnavailable(f"Redis is not usable: {type(answer).__name__}: {answer}"))
    else:
        call.answer.set_result(answer)
