"""The hub: the engine's sessions, and the transports that wait for something to tell them."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from calltag.core.bayeux.codec import Message, Reply, encode_event
from calltag.core.bayeux.engine import Caller, Engine, Turn, handshake_in
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.session import Held, Session
from calltag.core.runtime.waiting import set_within
from calltag.core.store.ports import StoreUnavailable

log = structlog.get_logger()
_CHANNELS: Final = ("/v2/me/calls", "/v2/me/devices", "/notifications/services")
_PATTERNS: Final = ("/v2/me/*", "/v2/me/**", "/notifications/*", "/notifications/**")
_SWEEP_S: Final = 1.0
_LOCKS: Final = 64


class Presence(Protocol):
    """Where events of a user go: it is told when the first session of a user comes and the last one goes."""

    async def online(self, user: str) -> None:
        """From here on, events of the user come to this node. Raises StoreUnavailable."""
        ...

    async def offline(self, user: str) -> None:
        """No session of the user is left here. Raises StoreUnavailable."""
        ...


class HubMetrics(Protocol):
    """The hub's observations."""

    def sessions(self, count: int) -> None:
        """How many sessions there are."""
        ...

    def received(self, messages: int) -> None:
        """Bayeux messages came in."""
        ...

    def delivered(self, channel: str, sessions: int) -> None:
        """A message was handed to sessions."""
        ...


def may_subscribe(user: str, channel: str) -> bool:  # noqa: ARG001 - "me" is whoever asks
    """The channels that calltag serves; each user sees the user's own messages on them."""
    return channel in _CHANNELS or channel in _PATTERNS


def now_ms() -> int:
    """A clock that does not go back."""
    return time.monotonic_ns() // 1_000_000


@dataclass(slots=True)
class Hub:
    """Sessions of one notifier. A transport registers an event to be woken by when there is news for a session."""

    limits: BayeuxLimits
    presence: Presence
    metrics: HubMetrics
    clock_ms: Callable[[], int] = now_ms
    draining: bool = False
    reachable: bool = False
    """Whether events can come to this node: before that, a session would miss some."""
    engine: Engine = field(init=False)
    _wakers: dict[str, asyncio.Event] = field(default_factory=dict)
    _locks: list[asyncio.Lock] = field(default_factory=lambda: [asyncio.Lock() for _ in range(_LOCKS)])
    _leaving: set[str] = field(default_factory=set)
    _sweep: asyncio.Event = field(default_factory=asyncio.Event)
    drained: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.engine = Engine(self.limits, may_subscribe)

    async def exchange(self, messages: Sequence[object], caller: Caller) -> Turn:
        """Work through one request. Before a handshake succeeds, the user's events are routed to this node."""
        self.metrics.received(len(messages))
        handshake = handshake_in(messages)
        if handshake is None:
            turn = self.engine.handle(messages, caller, self.clock_ms())
            self._ended(turn.ended)
            return turn
        if self.draining or not self.reachable:
            return self.engine.unavailable(handshake)
        return await self._handshake(messages, handshake, caller)

    async def _handshake(self, messages: Sequence[object], handshake: Message, caller: Caller) -> Turn:
        user = caller.user
        if user is None:
            return self.engine.handle(messages, caller, self.clock_ms())
        async with self._lock(user):
            if not self.engine.has_sessions(user):
                try:
                    await self.presence.online(user)
                except StoreUnavailable as error:
                    log.warning("handshake_refused", reason=str(error))
                    return self.engine.unavailable(handshake)
            turn = self.engine.handle(messages, caller, self.clock_ms())
        if turn.created is None and not self.engine.has_sessions(user):
            self._leave(user)
        self.metrics.sessions(self.engine.count)
        return turn

    def deliver(self, user: str, channel: str, data: object, ext: Mapping[str, object]) -> int:
        """Give a message to the user's subscribed sessions; it is encoded once. Returns how many they are."""
        event = encode_event(channel, data, ext)
        return self._woken(channel, self.engine.publish(user, channel, event))

    def broadcast(self, channel: str, data: object) -> int:
        """Give a message to all subscribed sessions."""
        return self._woken(channel, self.engine.broadcast(channel, encode_event(channel, data)))

    def _woken(self, channel: str, sessions: Sequence[Session]) -> int:
        for session in sessions:
            self._wake(session)
        if sessions:
            self.metrics.delivered(channel, len(sessions))
        return len(sessions)

    def waker(self, session: Session) -> asyncio.Event:
        """A new event, set when there is news for the session: events, the end of a held connect, the end of all.

        Whoever waited on an earlier one is woken: the newest transport of a session is the one to be told.
        """
        former = self._wakers.get(session.client_id)
        if former is not None:
            former.set()
        waker = self._wakers[session.client_id] = asyncio.Event()
        return waker

    def adopt_waker(self, session: Session, waker: asyncio.Event) -> None:
        """Let a transport that serves many sessions be woken by its one event."""
        former = self._wakers.get(session.client_id)
        if former is not None and former is not waker:
            former.set()
        self._wakers[session.client_id] = waker

    def release_waker(self, session: Session, waker: asyncio.Event) -> None:
        """The transport waits no more."""
        if self._wakers.get(session.client_id) is waker:
            del self._wakers[session.client_id]

    async def hold(self, session: Session, held: Held) -> Reply | None:
        """Wait until a held connect is to be answered; its reply, or None if a newer connect took its place."""
        waker = self.waker(session)
        try:
            # What happened between the request and here had nobody to wake.
            if session.held is held and not session.queue and self.engine.alive(session) and not self.draining:
                await set_within(waker, max(0, held.deadline_ms - self.clock_ms()) / 1000)
        finally:
            self.release_waker(session, waker)
        return self.engine.finish(session, held)

    def answered(self, session: Session, cycle: int) -> None:
        """The answer to a connect was written, or could not be."""
        self.engine.answered(session, cycle, self.clock_ms())

    async def sweep(self) -> None:
        """End silent sessions and tell that users are gone, for as long as the task runs."""
        while True:
            await set_within(self._sweep, _SWEEP_S)
            self._sweep.clear()
            self._ended(self.engine.expire(self.clock_ms()))
            for user in list(self._leaving):
                await self._offline(user)

    def drain(self) -> None:
        """Answer every held connect and take no handshake any more."""
        self.draining = True
        self.drained.set()
        for waker in list(self._wakers.values()):
            waker.set()

    def _ended(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            self._wake(session)
            if not self.engine.alive(session) and not self.engine.has_sessions(session.user):
                self._leave(session.user)
        if sessions:
            self.metrics.sessions(self.engine.count)

    def _leave(self, user: str) -> None:
        self._leaving.add(user)
        self._sweep.set()

    async def _offline(self, user: str) -> None:
        async with self._lock(user):
            if not self.engine.has_sessions(user):
                try:
                    await self.presence.offline(user)
                except StoreUnavailable as error:
                    log.warning("user_not_taken_off", reason=str(error))
                    return
            self._leaving.discard(user)

    def _wake(self, session: Session) -> None:
        waker = self._wakers.get(session.client_id)
        if waker is not None:
            waker.set()

    def _lock(self, user: str) -> asyncio.Lock:
        return self._locks[hash(user) % _LOCKS]
