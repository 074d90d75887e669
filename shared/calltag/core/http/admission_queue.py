"""Admission control: bounds the requests in flight; further ones wait in a short queue or are refused."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calltag.core.http.responses import answer_unavailable
from calltag.core.process.limits import QueueFull, SharedQueue

_PATIENCE_S: Final = 0.2
"""A request releases its slot while it waits longer than this for its client, to send the body or read the response."""
_FORGETS: Final = 0.05
"""Weight of each completion in the moving average `_pace_s`."""
_RETRY_AFTER_S: Final = (1, 3)
_TEXT: Final = "too many requests are waiting here; try again in a moment"


class Rejection(StrEnum):
    """Reasons for refusing a request, by the name of the setting."""

    QUEUE_FULL = "max_queued_requests"
    LATE = "queue_deadline_s"


def retry_after_s() -> int:
    """Return a random number of seconds until a retry, so that clients do not retry together."""
    return random.randint(*_RETRY_AFTER_S)  # noqa: S311 - spreads load, protects nothing


@dataclass(slots=True)
class _Turn:
    """The slot of one request."""

    intake: "AdmissionQueue"
    taken: bool = True

    def leave(self) -> None:
        if self.taken:
            self.taken = False
            self.intake.leave()

    def resume(self) -> None:
        """Take a slot again without waiting, since the request has begun; `most` may be exceeded for a moment."""
        if not self.taken:
            self.taken = True
            self.intake.in_progress += 1


_turn: ContextVar[_Turn | None] = ContextVar("turn", default=None)


@contextmanager
def release_slot() -> Iterator[None]:
    """Release the request's slot inside the context, where the request only waits for other requests."""
    turn = _turn.get()
    if turn is None:
        yield
        return
    turn.leave()
    try:
        yield
    finally:
        turn.resume()


@dataclass(slots=True)
class AdmissionQueue:
    """Admits `most` requests to the application at a time; up to `most_queued` others wait, in FIFO order.

    One address cannot fill the queue (see SharedQueue). A request gets HTTP 503 with Retry-After, in the form of the
    API, at once if the queue is full or its expected wait exceeds `deadline_s`, else when it has waited that long.
    `on_rejected` is called for each.
    """

    app: ASGIApp
    most: int
    most_queued: int
    deadline_s: float
    on_rejected: Callable[[Rejection], None] = lambda _: None
    in_progress: int = 0
    _pace_s: float = 0.0
    """Moving average of the seconds between two completions while the queue is not empty."""
    _ended_at_s: float | None = None
    _queue: deque[asyncio.Future[bool]] = field(default_factory=deque)
    _places: SharedQueue = field(init=False)

    def __post_init__(self) -> None:
        self._places = SharedQueue(self.most_queued)

    @property
    def queued(self) -> int:
        """Number of waiting requests."""
        return len(self._queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = await self._enter((scope.get("client") or ("",))[0])
        if refused is not None:
            self.on_rejected(refused)
            await _refuse(send)
            return
        turn = _Turn(self)
        token = _turn.set(turn)
        try:
            await self.app(scope, _patiently_received(receive, turn), _patiently_sent(send, turn))
        finally:
            _turn.reset(token)
            turn.leave()

    def leave(self) -> None:
        """Release a slot, and give it to the first waiting request."""
        self.in_progress -= 1
        self._keep_pace()
        while self._queue and self.in_progress < self.most:
            following = self._queue.popleft()
            if not following.done():
                self.in_progress += 1
                following.set_result(True)

    def _keep_pace(self) -> None:
        if not self._queue:
            self._ended_at_s = None
            return
        now_s = asyncio.get_running_loop().time()
        if self._ended_at_s is not None:
            self._pace_s += (now_s - self._ended_at_s - self._pace_s) * _FORGETS
        self._ended_at_s = now_s

    async def _enter(self, address: str) -> Rejection | None:
        if self.in_progress < self.most and not self._queue:
            self.in_progress += 1
            return None
        try:
            with self._places.place(address):
                if len(self._queue) * self._pace_s > self.deadline_s:
                    return Rejection.LATE
                return None if await self._turn_in_queue() else Rejection.LATE
        except QueueFull:
            return Rejection.QUEUE_FULL

    async def _turn_in_queue(self) -> bool:
        """Wait for a slot; return whether one was free before the deadline."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[bool] = loop.create_future()
        self._queue.append(waiting)
        late = loop.call_later(self.deadline_s, self._give_up, waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            elif not waiting.cancelled() and waiting.result():
                # The slot was given in the same iteration as the cancellation.
                self.leave()
            raise
        finally:
            late.cancel()

    def _give_up(self, waiting: asyncio.Future[bool]) -> None:
        if not waiting.done():
            self._queue.remove(waiting)
            waiting.set_result(False)


@contextmanager
def _patiently(turn: _Turn) -> Iterator[None]:
    """Release the slot inside the context once the client takes longer than `_PATIENCE_S`; take it again afterwards."""
    timer = asyncio.get_running_loop().call_later(_PATIENCE_S, turn.leave)
    try:
        yield
    finally:
        timer.cancel()
        turn.resume()


def _patiently_received(receive: Receive, turn: _Turn) -> Receive:
    async def received() -> Message:
        with _patiently(turn):
            return await receive()

    return received


def _patiently_sent(send: Send, turn: _Turn) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        with _patiently(turn):
            await send(message)

    return sent


async def _refuse(send: Send) -> None:
    await answer_unavailable(send, _TEXT, retry_after_s=retry_after_s())
