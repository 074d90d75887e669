"""WebSocket: each frame is an array of messages; events are pushed, and a connect is a heartbeat.

Source: the WebSocket transport of CometD's clients and server.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from calltag.core.bayeux.codec import CodecError, Reply, decode, encode
from calltag.core.bayeux.session import Held, Session
from calltag.core.identity.errors import TooManyLogins
from calltag.core.store.ports import StoreUnavailable
from calltag.notifier.cometd.access import Access, Login, caller_of
from calltag.notifier.cometd.hub import Hub

_GOING_AWAY: Final = 1001
_TOO_LARGE: Final = 1009
_ERROR: Final = 1011
_TRY_AGAIN_LATER: Final = 1013


@dataclass(slots=True)
class Socket:
    """One connection with the sessions that it serves (one, as a rule)."""

    websocket: WebSocket
    hub: Hub
    access: Access
    login: Login | None
    sessions: dict[str, Session] = field(default_factory=dict)
    held: dict[str, tuple[Session, Held]] = field(default_factory=dict)
    waker: asyncio.Event = field(default_factory=asyncio.Event)
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """Serve the connection until either side ends it."""
        await self.websocket.accept()
        reader = asyncio.ensure_future(self._read())
        writer = asyncio.ensure_future(self._write())
        drained = asyncio.ensure_future(self.hub.drained.wait())
        tasks = (reader, writer, drained)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if drained.done():
                await self._close(_GOING_AWAY)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            self._let_go()
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect | RuntimeError | OSError):
                raise outcome

    async def _read(self) -> None:
        while True:
            frame = await self.websocket.receive()
            if frame["type"] == "websocket.disconnect":
                return
            text = frame.get("text")
            try:
                await self._handle(text.encode() if text is not None else frame.get("bytes") or b"")
            except CodecError as error:
                await self._close(_TOO_LARGE if error.too_large else _ERROR, str(error))
                return
            except (StoreUnavailable, TooManyLogins) as error:
                await self._close(_TRY_AGAIN_LATER, str(error))
                return

    async def _handle(self, text: bytes) -> None:
        messages = decode(text, self.hub.limits)
        caller, _ = await caller_of(messages, self.login, self.access, streaming=True)
        turn = await self.hub.exchange(messages, caller)
        if turn.created is not None:
            self._serve(turn.created)
        if turn.held is not None:
            session, held = turn.held
            self._serve(session)
            self.held[session.client_id] = (session, held)
        if turn.events_of is not None:
            self._serve(turn.events_of)
        await self._send(turn.events_of, turn.replies)
        if turn.events_of is not None:
            self.hub.answered(turn.events_of, turn.events_of.cycle)
        self.waker.set()

    def _serve(self, session: Session) -> None:
        self.sessions[session.client_id] = session
        self.hub.adopt_waker(session, self.waker)

    async def _write(self) -> None:
        """Push what is queued, and answer held connects whose time has come."""
        while True:
            await self._wait()
            self.waker.clear()
            for session in list(self.sessions.values()):
                if session.connected:
                    await self._send(session, [])
            now_ms = self.hub.clock_ms()
            for session, held in list(self.held.values()):
                if held.deadline_ms <= now_ms or session.held is not held or not self.hub.engine.alive(session):
                    await self._answer(session, held)

    async def _wait(self) -> None:
        deadlines = [held.deadline_ms for _, held in self.held.values()]
        timeout_s = max(0, min(deadlines) - self.hub.clock_ms()) / 1000 if deadlines else None
        try:
            async with asyncio.timeout(timeout_s):
                await self.waker.wait()
        except TimeoutError:
            return

    async def _answer(self, session: Session, held: Held) -> None:
        del self.held[session.client_id]
        reply = self.hub.engine.finish(session, held)
        if reply is not None:
            await self._send(session, [reply])
            self.hub.answered(session, held.cycle)
        if not self.hub.engine.alive(session):
            self.sessions.pop(session.client_id, None)
            self.hub.release_waker(session, self.waker)

    async def _send(self, session: Session | None, replies: list[Reply]) -> None:
        """One frame; reader and writer take turns, so that events keep their order."""
        async with self.sending:
            events = session.take() if session is not None else []
            if events or replies:
                await self.websocket.send_text(encode(events, replies).decode())

    async def _close(self, code: int, reason: str = "") -> None:
        if self.websocket.application_state is WebSocketState.CONNECTED:
            await self.websocket.close(code, reason[:120])

    def _let_go(self) -> None:
        """The sessions live on for a while: their client may come back on another connection."""
        for session in self.sessions.values():
            self.hub.release_waker(session, self.waker)
            if session.held is not None and (session, session.held) == self.held.get(session.client_id):
                cycle = session.held.cycle
                self.hub.engine.finish(session, session.held)
                self.hub.answered(session, cycle)
