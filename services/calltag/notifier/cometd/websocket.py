"""WebSocket: each frame is an array of messages; events are pushed, and a connect is a heartbeat.

Source: the WebSocket transport of CometD's clients and server.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from calltag.core.bayeux.answer_budget import AnswerBudget
from calltag.core.bayeux.channels import HANDSHAKE
from calltag.core.bayeux.codec import CodecError, Reply, decode, encode_parts
from calltag.core.bayeux.session import Outlet, Session
from calltag.core.http.websocket import frame_writer_of
from calltag.core.identity.errors import TooManyLogins
from calltag.core.store.ports import StoreUnavailable
from calltag.notifier.cometd.access import Access, claim_of
from calltag.notifier.cometd.admission import Crowded
from calltag.notifier.cometd.answers import Answer, HeldConnect
from calltag.notifier.cometd.hub import Hub, Turn
from calltag.notifier.cometd.metrics import Limit

_GOING_AWAY: Final = 1001
_POLICY_VIOLATION: Final = 1008
_TOO_LARGE: Final = 1009
_ERROR: Final = 1011
_TRY_AGAIN_LATER: Final = 1013
_OVERTAKEN_MS: Final = 1_000
"""A session that another connection took over, while its client still waits here, is offered back to the client after
that time: two clients that both believe to have the session do not take it from each other more often."""
_PARTING_S: Final = 4.0
"""For how long a client that was told to wait may be silent, and some more."""


@dataclass(slots=True)
class Socket:
    """One connection with the sessions that it serves (one, as a rule)."""

    websocket: WebSocket
    hub: Hub
    access: Access
    deadline_s: float
    """How long the connection may be there without a session, in seconds."""
    sessions: dict[str, Session] = field(default_factory=dict)
    held: dict[str, HeldConnect] = field(default_factory=dict)
    overtaken: dict[str, tuple[HeldConnect, int]] = field(default_factory=dict)
    """Connects that were replaced by some that came another way, and when they are answered, by the hub's clock."""
    waker: asyncio.Event = field(default_factory=asyncio.Event)
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    handling: asyncio.Lock = field(default_factory=asyncio.Lock)
    going_out: int = 0
    """How many frames are on their way out, or wait for their turn."""
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    fresh: bool = True
    """Whether no session has connected yet."""
    refused_handshakes: int = 0
    """How many handshakes in a row were refused."""
    rests_until_s: float = 0.0
    """Until when the client, as it was told to, certainly sends nothing, by the loop's clock."""
    parting: bool = False
    outlet: Outlet | None = field(init=False)

    def __post_init__(self) -> None:
        writer = frame_writer_of(self.websocket.scope)

        if writer is None:
            self.outlet = None
            return

        def send(message: bytes, *, one_of_many: bool = False) -> bool:
            # What was taken before, for the answer to what is being handled, goes out before.
            if self.going_out or self.parting or self.handling.locked():
                return False
            return writer(message, one_of_many=one_of_many)

        self.outlet = send

    async def run(self) -> None:
        """Serve the connection until either side ends it."""
        await self.websocket.accept()
        reader: asyncio.Future[None] = asyncio.ensure_future(self._read())
        writer: asyncio.Future[None] = asyncio.ensure_future(self._write())
        drained = self.hub.sockets.turn()
        tasks = (reader, writer, drained)
        try:
            done: set[asyncio.Future[None]] = set()
            while not done:
                done, _ = await asyncio.wait(tasks, timeout=self.deadline_s, return_when=asyncio.FIRST_COMPLETED)
                self._forget_ended()
                if not done and not self.sessions:
                    await self._close(_POLICY_VIOLATION, self._without_session())
                    break
            if drained.done():
                await self._part(reader, writer)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            self._let_go()
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect | RuntimeError | OSError):
                raise outcome

    async def _read(self) -> None:
        while await self._read_frame():
            continue

    async def _read_frame(self) -> bool:
        """Handle one frame, of which nothing is kept while the next one is waited for; returns whether to go on."""
        frame = await self.websocket.receive()
        if frame["type"] == "websocket.disconnect":
            return False
        text = frame.get("text")
        try:
            async with self.handling:
                await self._handle(text.encode() if text is not None else frame.get("bytes") or b"")
        except CodecError as error:
            self.hub.unreadable(error)
            await self._close(_TOO_LARGE if error.too_large else _ERROR, str(error))
            return False
        except (StoreUnavailable, TooManyLogins, Crowded) as error:
            await self._close(_TRY_AGAIN_LATER, str(error))
            return False
        if self.refused_handshakes >= self.hub.limits.max_refused_handshakes:
            self.hub.connects.metrics.limited(Limit.REFUSED_HANDSHAKES)
            await self._close(_POLICY_VIOLATION, self._refused_too_often())
            return False
        # What is refused, and what has come already, takes no wait: others are to have their turn all the same.
        await asyncio.sleep(0)
        return True

    async def _handle(self, text: bytes) -> None:
        messages = decode(text, self.hub.limits)
        budget = AnswerBudget(self.hub.limits.max_answer_bytes).reserve(len(text), len(messages))
        claim = claim_of(messages, self.websocket, self.access)
        try:
            turn = await self.hub.exchange(messages, claim, budget, streaming=True)
        finally:
            claim.drop()
        events, replies = self._of_earlier(turn)
        session = self.hub.connects.local.sessions.get(turn.connected)
        if session is not None:
            self.sessions[session.client_id] = session
            self.fresh = False
            self.hub.connects.local.adopt_waker(session, self.waker, self.outlet)
        if turn.held is not None:
            self.held[turn.connected] = turn.held
        if session is not None and session.connects_only:
            await self.hub.connects.answers.saved(session.client_id)
        await self._send(events + turn.events, replies + turn.replies)
        self._count_refused_handshakes(turn)
        if session is not None and turn.held is None:
            self._told_to_wait(session)
        self._forget_ended()
        self.connected.set()
        self.waker.set()

    def _count_refused_handshakes(self, turn: Turn) -> None:
        for reply in turn.replies:
            if reply.get("channel") == HANDSHAKE:
                self.refused_handshakes = 0 if reply["successful"] else self.refused_handshakes + 1

    def _of_earlier(self, turn: Turn) -> tuple[list[bytes], list[Reply]]:
        """The answers to connects that wait here, and after which their client has sent the turn's."""
        answers: list[Answer] = []
        for connect in turn.replaced:
            answers += self._superseded(connect.session.client_id)
            self._note_overtaken(connect)
        answers += self._superseded(turn.connected)
        return [event for events, _ in answers for event in events], [reply for _, reply in answers]

    def _superseded(self, client_id: str) -> Iterator[Answer]:
        held, (overtaken, _) = self.held.pop(client_id, None), self.overtaken.pop(client_id, (None, 0))
        for connect in (held, overtaken):
            if connect is not None:
                yield self.hub.connects.answers.superseded(connect)

    def _forget_ended(self) -> None:
        """Drop the sessions that ended, or went elsewhere; what they are still to be told is sent all the same."""
        for session in list(self.sessions.values()):
            is_told = not session.farewell and session.client_id not in self.held
            if is_told and not self.hub.connects.local.holds(session):
                del self.sessions[session.client_id]
                self.hub.connects.local.release_waker(session, self.waker)

    async def _write(self) -> None:
        """Push what is queued, and answer held connects whose time has come."""
        try:
            while not self.parting:
                await self._wait()
                self.waker.clear()
                await self._tell()
        except StoreUnavailable as error:
            await self._close(_TRY_AGAIN_LATER, str(error))

    async def _tell(self) -> None:
        for session in list(self.sessions.values()):
            if session.farewell and session.client_id not in self.held:
                await self._send(self.hub.connects.ends.bid_farewell(session), [])
            if session.pushes:
                await self._push(session)
        for connect in list(self.held.values()):
            if self.hub.connects.answers.is_due(connect):
                await self._answer(connect)
        for connect, due_ms in list(self.overtaken.values()):
            if due_ms <= self.hub.connects.clock_ms():
                await self._answer_overtaken(connect)

    async def _part(self, reader: asyncio.Future[None], writer: asyncio.Future[None]) -> None:
        """The node goes: answer what the client has asked, and close while it waits before it connects again.

        So nothing that it has sent is without an answer, and nothing has to be sent again. Who has just come may have
        sent something that is still on its way.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PARTING_S):
                while (self.sessions or self.fresh) and not self.held and not self._rests():
                    self.connected.clear()
                    await self.connected.wait()
        async with self.handling:
            reader.cancel()
            self.parting = True
            self.waker.set()
            # What it has taken it must have sent, too.
            await asyncio.wait({writer}, timeout=_PARTING_S)
            for connect in list(self.held.values()):
                await self._answer(connect)
            for connect, _ in list(self.overtaken.values()):
                await self._answer_overtaken(connect)
            await self._close(_GOING_AWAY)

    async def _wait(self) -> None:
        deadlines = [connect.held.deadline_ms for connect in self.held.values()]
        deadlines += [due_ms for _, due_ms in self.overtaken.values()]
        timeout_s = max(0, min(deadlines) - self.hub.connects.clock_ms()) / 1000 if deadlines else None
        try:
            async with asyncio.timeout(timeout_s):
                await self.waker.wait()
        except TimeoutError:
            return

    async def _push(self, session: Session) -> None:
        connects = self.hub.connects
        # A newer connection may take the session over at any time: what waits is for that one.
        while connects.local.is_told_by(session, self.waker):
            await connects.feeding.catch_up(session)
            if not connects.local.is_told_by(session, self.waker) or not session.has_events:
                return
            await self._send(connects.answers.take(session, connects.answers.budget()), [])

    async def _answer(self, connect: HeldConnect) -> None:
        session = connect.session
        if self.held.get(session.client_id) is not connect:
            # While another answer went out, the client has connected once more, and was answered.
            return
        del self.held[session.client_id]
        answer = self.hub.connects.answers.finish(connect)
        if answer is not None:
            events, reply = answer
            if session.connects_only:
                await self.hub.connects.answers.saved(session.client_id)
            await self._send(events, [reply])
            self._told_to_wait(session)
        else:
            self._note_overtaken(connect)
        if not self.hub.connects.local.holds(session) and self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]
            self.hub.connects.local.release_waker(session, self.waker)

    def _note_overtaken(self, connect: HeldConnect) -> None:
        """Another connection has taken the session over; as a rule this client has made it, and closes this one.

        Where the other one was the older one, and its message only came late (a page that was reloaded, a network that
        was gone for a while), the client waits here, and would for as long as a connect is held.
        """
        self.overtaken[connect.session.client_id] = connect, self.hub.connects.clock_ms() + _OVERTAKEN_MS

    async def _answer_overtaken(self, connect: HeldConnect) -> None:
        client_id = connect.session.client_id
        noted = self.overtaken.get(client_id)
        if noted is None or noted[0] is not connect:
            # While another answer went out, the client has come back by itself.
            return
        del self.overtaken[client_id]
        await self._send([], [self.hub.connects.answers.overtaken(connect)])
        self._told_to_wait(connect.session)

    def _told_to_wait(self, session: Session) -> None:
        """A connect was answered; while the node goes, that tells the client to wait. Half of that is taken for sure,
        as the answer may be under way for some time."""
        if self.hub.draining:
            self.rests_until_s = asyncio.get_running_loop().time() + session.interval_ms / 2000

    def _rests(self) -> bool:
        return asyncio.get_running_loop().time() < self.rests_until_s

    async def _send(self, events: list[bytes], replies: list[Reply]) -> None:
        """One answer, in frames that clients take by default.

        Frames go out in the order of the calls, and so in the order in which events were taken.
        """
        self.going_out += 1
        try:
            async with self.sending:
                for frame in encode_parts(events, replies, self.hub.limits.max_frame_bytes):
                    await self.websocket.send_text(frame.decode())
        finally:
            self.going_out -= 1

    def _refused_too_often(self) -> str:
        most = self.hub.limits.max_refused_handshakes
        return f"{most} handshakes in a row were refused (CALLTAG_NOTIFIER__MAX_REFUSED_HANDSHAKES)"

    def _without_session(self) -> str:
        return f"no session was connected within {self.deadline_s:g} s (CALLTAG_NOTIFIER__SOCKET_DEADLINE_S)"

    async def _close(self, code: int, reason: str = "") -> None:
        if self.websocket.application_state is WebSocketState.CONNECTED:
            # The client, or the server that ends, may have been faster.
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
                await self.websocket.close(code, reason[:120])

    def _let_go(self) -> None:
        """The sessions live on for a while: their client may come back on another connection."""
        # It holds the socket itself: what is over is not to stay until somebody looks for garbage.
        self.outlet = None
        for session in self.sessions.values():
            self.hub.connects.local.release_waker(session, self.waker)
        for connect in self.held.values():
            self.hub.connects.answers.abandon(connect)
