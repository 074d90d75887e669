"""CometD over WebSocket: each frame is an array of messages; events are pushed, and a connect is a heartbeat.

Source: the WebSocket transport of CometD's clients and server.
"""

import asyncio
import itertools
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from calltag.core.bayeux.channels import HANDSHAKE
from calltag.core.bayeux.deadlines import Deadlines
from calltag.core.bayeux.messages import AnswerBudget, BayeuxLimit, CodecError, Reply, decode, encode_parts
from calltag.core.http.direct import DirectWebSocket, SocketHandler
from calltag.core.http.request_parser import RequestHead
from calltag.core.http.responses import Refusal
from calltag.core.identity.login_attempts import LoginUnavailable
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.request_ids import request_id_of
from calltag.notifier.authentication import Authentication, Credentials, credentials_of, proof_of
from calltag.notifier.bayeux_server import BayeuxResponse, BayeuxServer
from calltag.notifier.session_registry import ConnectRequest, Crowded, RequestContext, Resident, Suspended

log = structlog.get_logger()
_numbers = itertools.count(1)
_GOING_AWAY: Final = 1001
_POLICY_VIOLATION: Final = 1008
_TOO_LARGE: Final = 1009
_ERROR: Final = 1011
_TRY_AGAIN_LATER: Final = 1013
_REASON_BYTES: Final = 120
_OVERTAKEN_MS: Final = 1_000
"""Milliseconds after which a waiting connect is answered whose session another connection has taken over. This bounds
how often two clients with the same session take it from each other."""
_TICK_S: Final = 0.5
_PARTING_S: Final = 4.0
"""Maximum seconds that the close of a WebSocket waits for the next connect of its client."""
_CLOSES_MS: Final = 2_000
"""Interval in the advice before a close, in which the WebSocket is closed with no message in flight."""
_OFF: Final = "WebSocket is off here (CALLTAG_NOTIFIER__WEBSOCKET); send messages by POST"


@dataclass(slots=True)
class WebSockets:
    """The open WebSockets of the node, their deadlines and their drain."""

    server: BayeuxServer
    authentication: Authentication
    deadline_s: float
    """Seconds after which a connection without a session is closed."""
    spread_s: float = 0.0
    """Seconds over which a drain spreads the closes."""
    is_offered: bool = True
    opened: dict[int, "SocketConnection"] = field(default_factory=dict)
    deadlines: Deadlines[int] = field(default_factory=Deadlines)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    is_draining: bool = False
    _all_closed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, connection: "SocketConnection") -> None:
        """Add an open WebSocket."""
        self.opened[connection.number] = connection
        self._all_closed.clear()

    def discard(self, connection: "SocketConnection") -> None:
        """Remove a closed WebSocket."""
        self.opened.pop(connection.number, None)
        if not self.opened:
            self._all_closed.set()

    def open(self, head: RequestHead, address: str) -> SocketHandler | Refusal:
        """Create the handler of a new WebSocket, or refuse it."""
        if not self.is_offered:
            return Refusal(404, _OFF)
        shown = credentials_of(head.headers, address, head.user, is_http=False)
        return SocketConnection(
            self, shown, proof_of(head.headers, head.user, is_http=False), request_id_of(head.headers)
        )

    async def keep_ticking(self) -> None:
        """Run `tick` periodically, until the task is cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(_TICK_S)

    def tick(self) -> None:
        """Close connections without a session, and answer connects whose sessions were taken over."""
        now_ms = self.server.sessions.registry.clock_ms()
        for number, noted_ms in self.deadlines.due(now_ms):
            connection = self.opened.get(number)
            if connection is not None and connection.noted_ms == noted_ms:
                connection.tick(now_ms)

    def drain(self) -> None:
        """Close all WebSockets, spread over time, so that clients do not reconnect all at once."""
        self.is_draining = True
        loop = asyncio.get_running_loop()
        if not self.opened:
            self._all_closed.set()
        for each in self.opened.values():
            loop.call_later(random.uniform(0, self.spread_s), each.leave)  # noqa: S311 - spreads load

    async def closed(self, patience_s: float) -> None:
        """Wait until all are closed, at most `patience_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._all_closed.wait()


class SocketConnection:
    """One connection, with the sessions that it serves (one, as a rule); implements SocketHandler and Outlet."""

    __slots__ = (
        "_address",
        "_earlier",
        "_is_busy",
        "_is_closing",
        "_is_leaving",
        "_opened_at_ms",
        "_overtaken",
        "_proof",
        "_refused_handshakes",
        "_request_id",
        "_residents",
        "_shown",
        "_socket",
        "_sockets",
        "noted_ms",
        "number",
    )  # fmt: skip

    def __init__(self, sockets: WebSockets, shown: Credentials, proof: bytes, request_id: bytes) -> None:
        self._sockets = sockets
        self._shown = shown
        self._proof = proof
        self._request_id = request_id
        self._socket: DirectWebSocket | None = None
        self._residents: dict[str, Resident] = {}
        self._overtaken: dict[str, tuple[Suspended | ConnectRequest, int]] = {}
        """Connects replaced by one on another connection, each with the time of its answer, by the node's clock."""
        self._earlier: list[Reply] = []
        """Replies to connects that the connect in progress replaced on this connection."""
        self._is_busy = False
        """A message is being processed, and nothing is pushed before its answer."""
        self._is_closing = False
        self._is_leaving = False
        """It is closed once its client waits for the answer to a connect."""
        self._refused_handshakes = 0
        self._opened_at_ms = sockets.server.sessions.registry.clock_ms()
        self.number = next(_numbers)
        self.noted_ms = 0
        """The next deadline of the connection; 0 if none is noted."""

    # -- events of the connection --------------------------------------------------------------------------------------

    def handshake_fields(self) -> Iterable[tuple[bytes, bytes]]:
        return ((b"x-request-id", self._request_id), (b"x-content-type-options", b"nosniff"))

    def opened(self, socket: DirectWebSocket) -> None:
        self._socket = socket
        self._sockets.add(self)
        self._look_again(self._opened_at_ms + self._deadline_ms)
        if self._sockets.is_draining:
            asyncio.get_running_loop().call_later(random.uniform(0, self._sockets.spread_s), self.leave)  # noqa: S311

    def message(self, data: bytes) -> bool:
        """Handle a frame; return False if a task continues with it."""
        server = self._sockets.server
        try:
            messages = decode(data, server.limits)
        except CodecError as error:
            server.unreadable(error)
            self._close(_TOO_LARGE if error.too_large else _ERROR, str(error))
            return True
        if not messages or self._socket is None:
            # Faye's clients send an empty array to keep the connection alive.
            return True
        context = RequestContext(
            self, self._socket.connection_id, self._shown.address, self._proof, len(data), len(messages),
            is_streaming=True,
        )  # fmt: skip
        self._is_busy = True
        outcome = server.process_now(messages, context)
        if outcome is None:
            task = asyncio.create_task(self._process(messages, context), name="cometd-frame")
            self._sockets.tasks.add(task)
            task.add_done_callback(self._sockets.tasks.discard)
            return False
        self._is_busy = False
        self._serve(outcome.resident)
        if isinstance(outcome, Suspended):
            self._send([], self._take_earlier())
        elif not self._send(outcome.events, [*self._take_earlier(), outcome.reply]):
            server.sessions.answer_lost([outcome.resident.client_id] if outcome.resident is not None else ())
        if outcome.resident is not None:
            self.has_news(outcome.resident)
        self._part_if_waiting()
        return True

    async def _process(self, messages: Sequence[object], context: RequestContext) -> None:
        server = self._sockets.server
        claim = self._sockets.authentication.claim(messages, self._shown)
        try:
            response = await server.process(messages, claim, context)
        except (StoreUnavailable, LoginUnavailable, Crowded) as error:
            self._close(_TRY_AGAIN_LATER, str(error))
        except Exception:
            log.exception("cometd_frame_failed")
            self._close(_ERROR, "internal error")
        else:
            self._answer(response, shows_credentials=claim.shows_credentials)
        finally:
            claim.drop()
            self._is_busy = False
            if self._socket is not None:
                self._socket.ready()
            for resident in list(self._residents.values()):
                self.has_news(resident)
            self._part_if_waiting()

    def _answer(self, response: BayeuxResponse, *, shows_credentials: bool) -> None:
        for replaced in response.replaced:
            self._overtake(replaced)
        if response.connected:
            self._serve(self._sockets.server.sessions.registry.residents.get(response.connected))
        if not self._send(response.events, [*self._take_earlier(), *response.replies]):
            self._sockets.server.sessions.answer_lost(response.served)
        for reply in response.replies:
            if reply.get("channel") == HANDSHAKE:
                self._refused_handshakes = 0 if reply["successful"] else self._refused_handshakes + 1
                if not reply["successful"] and not shows_credentials:
                    # A client that authenticates by request headers falls back to long-polling.
                    self._close(_POLICY_VIOLATION, "no credentials were sent")
        most = self._sockets.server.limits.max_refused_handshakes
        if self._refused_handshakes >= most:
            self._sockets.server.sessions.metrics.limited(BayeuxLimit.REFUSED_HANDSHAKES)
            self._close(
                _POLICY_VIOLATION,
                f"{most} handshakes in a row were refused (CALLTAG_NOTIFIER__MAX_REFUSED_HANDSHAKES)",
            )

    def _serve(self, resident: Resident | None) -> None:
        """Make this connection the outlet of a session, after a connect."""
        if resident is None or self._socket is None:
            return
        self._answer_overtaken(resident.client_id)
        self._residents[resident.client_id] = resident
        if self._sockets.server.sessions.registry.has(resident):
            resident.push_to(self)

    def writable(self) -> None:
        """Continue pushing: the write buffer has drained."""
        for resident in list(self._residents.values()):
            self.has_news(resident)

    def closed(self, is_clean: bool) -> None:
        """Detach the sessions, whose client may reconnect before they expire. A client that answers the server's close
        frame has read all before it; one that closes by itself may have read less."""
        has_read_all = is_clean and self._is_closing
        self._socket = None
        self._sockets.discard(self)
        sessions = self._sockets.server.sessions
        for resident in self._residents.values():
            if resident.outlet is not self:
                continue
            resident.push_to(None)
            if has_read_all and not resident.is_answer_lost:
                resident.session.confirm_sent()
                sessions.registry.mark(resident)
            else:
                sessions.registry.lose_answer(resident)
            if resident.suspended is not None and resident.suspended.outlet is self:
                sessions.abandon(resident.suspended)
        self._residents.clear()
        self._overtaken.clear()

    def leave(self) -> None:
        """Close for the drain of the node; the client reconnects to another one.

        The connect is answered, and the WebSocket closed in the interval before the next one, so that no message is
        left without an answer. A client without a waiting connect may have one in flight, and gets `_PARTING_S`.
        """
        self._is_leaving = True
        if self._is_waiting:
            self._part()
        else:
            asyncio.get_running_loop().call_later(_PARTING_S, self._part)

    def _part(self) -> None:
        sessions = self._sockets.server.sessions
        for resident in list(self._residents.values()):
            self.has_news(resident)
            suspended = resident.suspended
            if suspended is not None and suspended.outlet is self:
                sessions.abandon(suspended)
                self._send([], [self._parting(suspended)])
        for connect, _ in self._overtaken.values():
            self._send([], [self._parting(connect)])
        self._overtaken.clear()
        self._close(_GOING_AWAY)

    def _part_if_waiting(self) -> None:
        if self._is_leaving and self._is_waiting:
            self._part()

    @property
    def _is_waiting(self) -> bool:
        """Return whether the client waits for the answer to a connect, and no other message is in progress."""
        suspended = [each.suspended for each in self._residents.values() if each.suspended is not None]
        return not self._is_busy and (bool(self._overtaken) or any(each.outlet is self for each in suspended))

    def _parting(self, connect: Suspended | ConnectRequest) -> Reply:
        sessions = self._sockets.server.sessions
        reply = sessions.replies.without_events(connect)
        return reply | {"advice": sessions.engine.advice("retry", _CLOSES_MS)}

    @property
    def _deadline_ms(self) -> int:
        return round(self._sockets.deadline_s * 1000)

    def _look_again(self, at_ms: int) -> None:
        """Schedule `tick` for that time or earlier."""
        if not self.noted_ms or at_ms < self.noted_ms:
            self.noted_ms = at_ms
            self._sockets.deadlines.add(at_ms, self.number)

    def tick(self, now_ms: int) -> None:
        """Check the deadlines of the connection, and note the next one."""
        self.noted_ms = 0
        for client_id, (suspended, due_ms) in list(self._overtaken.items()):
            if due_ms <= now_ms:
                del self._overtaken[client_id]
                self._send([], [self._sockets.server.sessions.replies.without_events(suspended, has_failed=True)])
        has = self._sockets.server.sessions.registry.has
        for client_id, resident in list(self._residents.items()):
            if not has(resident) and client_id not in self._overtaken and not resident.goodbye:
                del self._residents[client_id]
                self._opened_at_ms = now_ms
        if not self._residents and now_ms - self._opened_at_ms >= self._deadline_ms and not self._is_busy:
            self._close(
                _POLICY_VIOLATION,
                f"no session was connected within {self._sockets.deadline_s:g} s (CALLTAG_NOTIFIER__SOCKET_DEADLINE_S)",
            )
        since_ms = now_ms if self._residents else self._opened_at_ms
        due_ms = min((since_ms + self._deadline_ms, *(due_ms for _, due_ms in self._overtaken.values())))
        self._look_again(max(due_ms, now_ms + round(_TICK_S * 1000)))

    # -- the session's outlet ------------------------------------------------------------------------------------------

    def budget(self) -> AnswerBudget:
        return self._sockets.server.sessions.replies.budget()

    def send(self, suspended: Suspended, events: list[bytes], reply: Reply) -> bool:  # noqa: ARG002 - the interface's
        return self._send(events, [reply])

    def replace(self, suspended: Suspended) -> None:
        """Answer the connect together with the newer one, if that came on this connection; the official client only
        uses the advice of that reply. Else answer after `_OVERTAKEN_MS`: the other connect may be an older one that
        arrived late, and the client here would wait for the whole timeout."""
        if self._is_busy:
            self._overtaken.pop(suspended.resident.client_id, None)
            self._earlier.append(self._sockets.server.sessions.replies.without_events(suspended))
        else:
            self._overtake(suspended)

    def _overtake(self, connect: Suspended | ConnectRequest) -> None:
        self._answer_overtaken(connect.client_id)
        due_ms = self._sockets.server.sessions.registry.clock_ms() + _OVERTAKEN_MS
        self._overtaken[connect.client_id] = connect, due_ms
        self._look_again(due_ms)

    def _answer_overtaken(self, client_id: str) -> None:
        """Answer an overtaken connect together with a newer one of its client."""
        connect, _ = self._overtaken.pop(client_id, (None, 0))
        if connect is not None:
            self._earlier.append(self._sockets.server.sessions.replies.without_events(connect))

    def _take_earlier(self) -> list[Reply]:
        earlier, self._earlier = self._earlier, []
        return earlier

    def push(self, frame: bytes, *, one_of_many: bool) -> bool:
        return (
            not self._is_busy and self._socket is not None and self._socket.send_frame(frame, one_of_many=one_of_many)
        )

    def has_news(self, resident: Resident) -> None:
        """Push queued messages until the client reads too slowly."""
        sessions, session = self._sockets.server.sessions, resident.session
        if resident.goodbye:
            self._send(resident.take_goodbye(), [])
        if not sessions.registry.has(resident):
            # The deadline of a connection without a session begins.
            self._look_again(sessions.registry.clock_ms())
        while self._socket is not None and self._socket.is_writable and not self._is_busy and session.pushes:
            if resident.outlet is not self or not session.has_messages or not sessions.is_verified(resident):
                break
            taken = sessions.replies.take(resident, sessions.replies.budget(), sessions.registry.clock_ms())
            self._send(taken, [])
        if resident.outlet is self and session.pushes and session.needs_reading and not session.has_messages:
            sessions.read_on(resident)

    def _send(self, events: Sequence[bytes], replies: Sequence[Reply]) -> bool:
        """Send one answer, split into frames that clients accept by default."""
        socket = self._socket
        if socket is None:
            return False
        is_sent = True
        for frame in encode_parts(events, replies, self._sockets.server.limits.max_frame_bytes):
            is_sent = socket.send_text(frame) and is_sent
        return is_sent

    def _close(self, code: int, reason: str = "") -> None:
        if self._socket is not None and self._socket.is_open:
            self._is_closing = True
            self._socket.close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))
