"""CometD over HTTP: each request is an array of messages, and a connect waits for its answer.

Long-polling by POST, and callback-polling by GET, are handled in the callbacks of the connection: a connect that can be
answered or suspended from memory needs no task. CORS preflights are served by ASGI routes.
Source: Bayeux protocol 1.0, section 7; requests as CometD's and Faye's clients make them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from calltag.core.bayeux.channels import HANDSHAKE
from calltag.core.bayeux.engine import CALLBACK_POLLING
from calltag.core.bayeux.messages import FORM_TYPE, AnswerBudget, CodecError, Reply, decode, encode, messages_of_form
from calltag.core.http.cross_origin import FOREIGN
from calltag.core.http.direct import DirectRequest, SocketHandler
from calltag.core.http.request_parser import RequestHead
from calltag.core.http.responses import Refusal, response_lines
from calltag.core.http.scope import COMETD_PATHS
from calltag.core.identity.authentication import LockedOut, LoginUnavailable
from calltag.core.identity.http_sessions import CSRF_MESSAGE
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.request_ids import given_id, new_id
from calltag.notifier.authentication import Authentication, Caller, CallerClaim, CsrfRefused, credentials_of, proof_of
from calltag.notifier.bayeux_server import BayeuxResponse, BayeuxServer
from calltag.notifier.browsers import (
    SCRIPT_FIELDS,
    Browsers,
    Origins,
    browser_of,
    callback_of,
    page_is_known,
    script,
    script_bytes,
)
from calltag.notifier.metrics import NotifierMetrics
from calltag.notifier.session_registry import Crowded, RequestContext, Resident, Suspended, retry_after_s
from calltag.notifier.websocket import WebSockets

log = structlog.get_logger()
_NOT_SERVED: Final = "this method is not served here; send messages by POST"
OFF: Final = "callback-polling is off here (CALLTAG_NOTIFIER__CALLBACK_POLLING); send messages by POST"
REPLACED: Final = b"replaced by a newer /meta/connect"
_TEXT: Final = (b"content-type", b"text/plain;charset=UTF-8")
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_JSON: Final = (
    (b"content-type", b"application/json;charset=UTF-8"), (b"cache-control", b"no-store"), _NOSNIFF,
)  # fmt: skip
Fields = list[tuple[bytes, bytes]]


def path_of(head: RequestHead) -> str:
    """Return the address of CometD that the request's path is or begins with; "" if there is none.

    Clients append the type of their message to the address.
    """
    path = head.path.decode("ascii")
    return next(
        (each for each in COMETD_PATHS if path.startswith(each) and path[len(each) : len(each) + 1] in ("", "/")), ""
    )


def refused(error: Exception) -> tuple[int, str, Fields]:
    """Return status, text and fields of the answer to a request that failed."""
    match error:
        case CsrfRefused():
            return 403, CSRF_MESSAGE, []
        case LockedOut():
            return 429, str(error), [(b"retry-after", str(error.wait_s).encode())]
        case Crowded():
            return 503, str(error), [(b"retry-after", str(retry_after_s()).encode())]
        case CodecError():
            return (413 if error.too_large else 400), str(error), []
        case _:
            return 503, str(error), [(b"retry-after", b"1")]


@dataclass(frozen=True, slots=True)
class _Notes:
    """Facts derived from the head of a request, cached while a connection repeats the same head."""

    path: str
    address: str
    """The client's address, as a trusted proxy forwards it."""
    proof: bytes
    browser: str
    is_form: bool
    counts: bool
    """Its credentials count: it is a POST, or comes from a known page."""
    may_use: bool
    """Its origin is allowed."""
    request_id: bytes
    """Request id from the client, if any."""
    cors: Fields
    fields: Sequence[tuple[bytes, bytes]]
    """Header fields of an answer with messages."""
    lines: bytes
    """Encoded head of an answer with messages."""


REFUSALS: Final = (CsrfRefused, LockedOut, LoginUnavailable, Crowded, StoreUnavailable)


@dataclass(slots=True)
class CometdHttp:
    """Implements RequestHandler: POST requests and WebSockets at the addresses of CometD."""

    server: BayeuxServer
    authentication: Authentication
    origins: Origins
    browsers: Browsers
    sockets: WebSockets
    metrics: NotifierMetrics
    body_deadline_s: float
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def max_body_bytes(self) -> int:
        return self.server.limits.max_body_bytes

    @property
    def has_callback_polling(self) -> bool:
        return CALLBACK_POLLING in self.server.engine.connection_types

    def accepts(self, head: RequestHead) -> bool:
        is_served = head.method == "POST" or (head.method == "GET" and self.has_callback_polling)
        return is_served and (isinstance(head.note, _Notes) or bool(path_of(head)))

    def notes(self, request: DirectRequest) -> _Notes:
        """Return the facts derived from the head of a request."""
        head = request.head
        found = head.note
        if isinstance(found, _Notes):
            return found
        headers = head.headers
        cors = self.origins.cors_fields(headers)
        is_script = head.method == "GET"
        counts = not is_script or page_is_known(headers, self.origins)
        fields = (*SCRIPT_FIELDS, _NOSNIFF) if is_script else _JSON
        notes = _Notes(
            path_of(head),
            request.client[0],
            proof_of(headers, head.user) if counts else proof_of(()),
            browser_of(headers) if self.browsers.is_limited else "",
            any(name == b"content-type" and value.startswith(FORM_TYPE) for name, value in headers),
            counts,
            self.origins.pass_headers(headers),
            given_id(headers),
            cors,
            fields,
            response_lines(200, [*fields, *cors]) + b"x-request-id: ",
        )
        head.keep(notes)
        return notes

    def handle(self, request: DirectRequest) -> None:
        """Answer a request or suspend its connect: from memory where possible, else in a task."""
        notes = self.notes(request)
        poll = LongPoll(self, request, notes)
        if not notes.may_use:
            poll.refuse(403, FOREIGN)
            return
        text, request.body = request.body, b""
        try:
            if request.head.method == "GET":
                poll.callback = callback_of(request.head.query)
                text = messages_of_form(request.head.query, "query")
            elif notes.is_form:
                text = messages_of_form(text)
            messages = decode(text, self.server.limits)
        except CodecError as error:
            self.server.unreadable(error)
            poll.refuse(*refused(error))
            return
        if not messages:
            poll.respond([], [])
            return
        context = RequestContext(poll, request.connection_id, notes.address, notes.proof, len(text), len(messages))
        has_room = not notes.browser or self.browsers.has_room(notes.browser, _client_id_of(messages))
        outcome = self.server.process_now(messages, context) if has_room else None
        if outcome is None:
            task = asyncio.create_task(poll.process(messages, context), name="cometd-request")
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif isinstance(outcome, Suspended):
            if notes.browser:
                self.browsers.hold(notes.browser, outcome)
            poll.suspend(outcome)
        else:
            poll.respond(outcome.events, [outcome.reply])

    def refuse_size(self, request: DirectRequest) -> None:
        """Answer a request with a body over `max_body_bytes`."""
        error = CodecError(f"the request is larger than {self.max_body_bytes} bytes", limit="max_body_bytes")
        self.server.unreadable(error)
        LongPoll(self, request, self.notes(request)).refuse(*refused(error))

    def refuse_late(self, request: DirectRequest) -> None:
        """Answer a request whose body missed its deadline."""
        text = f"the request did not come within {self.body_deadline_s:g} s (CALLTAG_BODY_DEADLINE_S)"
        LongPoll(self, request, self.notes(request)).refuse(400, text)

    def open_socket(
        self,
        head: RequestHead,
        client: tuple[str, int],
        scheme: str,  # noqa: ARG002 - the interface's
    ) -> SocketHandler | Refusal | None:
        """Open a WebSocket at an address of CometD, if its origin is allowed."""
        if not path_of(head):
            return None
        if not self.origins.pass_headers(head.headers):
            return Refusal(403, FOREIGN)
        return self.sockets.open(head, client[0])


def _client_id_of(messages: Sequence[object]) -> str:
    first = messages[0]
    return str(first.get("clientId")) if isinstance(first, dict) else ""


class LongPoll:
    """One request and its response: messages, or a script that passes them to `callback`; implements Outlet."""

    __slots__ = ("_http", "_notes", "_request", "callback", "suspended")

    def __init__(self, http: CometdHttp, request: DirectRequest, notes: _Notes) -> None:
        self.callback = b""
        self._http = http
        self._request = request
        self._notes = notes
        self.suspended: Suspended | None = None

    async def process(self, messages: Sequence[object], context: RequestContext) -> None:
        """Process the messages, and answer unless a connect is suspended."""
        http, head = self._http, self._request.head
        shown = credentials_of(head.headers, context.address, head.user, counts=self._notes.counts)
        claim = http.authentication.claim(messages, shown)
        try:
            response = await http.server.process(messages, claim, context)
            if not (response.connected or response.replaced or self.callback):
                response.events += await http.server.sessions.deliver(response.spoke, context)
            self._answer(response, claim.set_cookie)
        except REFUSALS as error:
            self.refuse(*refused(error))
        except Exception:
            log.exception("cometd_request_failed")
            self.refuse(500, "the request was not answered because of an internal error")
        finally:
            claim.drop()

    def _answer(self, response: BayeuxResponse, set_cookie: str | None) -> None:
        if response.suspended is not None:
            self._suspend_if_allowed(response.suspended)
        elif response.replaced:
            self.refuse(500, REPLACED.decode())
        else:
            fields: Fields = []
            if set_cookie:
                fields.append((b"set-cookie", set_cookie.encode()))
            if not self._notes.browser and any(_begins(reply) for reply in response.replies):
                fields.append((b"set-cookie", self._http.browsers.new_cookie().encode()))
            if not self.respond(response.events, response.replies, fields):
                self._http.server.sessions.answer_lost(response.served)

    def _suspend_if_allowed(self, suspended: Suspended) -> None:
        """Suspend the connect, unless the browser is at its limit or the connect was answered meanwhile."""
        if suspended.resident.suspended is not suspended:
            return
        if self._http.browsers.hold(self._notes.browser, suspended):
            self.suspend(suspended)
            return
        resident = suspended.resident
        # The session must not expire while its client waits for the advised interval.
        resident.interval_ms = max(resident.interval_ms, self._http.browsers.interval_ms)
        self._http.server.sessions.answer(suspended)

    def suspend(self, suspended: Suspended) -> None:
        """Keep the request open until its connect is answered or its client disconnects."""
        self.suspended = suspended
        self._request.notify_gone(self._gone)

    def _gone(self, is_lost: bool) -> None:
        suspended, self.suspended = self.suspended, None
        if suspended is None:
            return
        self._http.browsers.release(self._notes.browser, suspended)
        sessions = self._http.server.sessions
        sessions.abandon(suspended)
        if not is_lost:
            # A half-closed client may still read: it is asked to connect again.
            self.respond([], [sessions.replies.without_events(suspended, has_failed=True)])

    # -- the answer --------------------------------------------------------------------------------------------------

    def budget(self) -> AnswerBudget:
        most = self._http.server.limits.max_answer_bytes
        return AnswerBudget(most, script_bytes) if self.callback else AnswerBudget(most)

    def send(self, suspended: Suspended, events: list[bytes], reply: Reply) -> bool:
        self.suspended = None
        if self._notes.browser:
            reply = self._http.browsers.advise(suspended, reply)
            self._http.browsers.release(self._notes.browser, suspended)
        return self.respond(events, [reply])

    def replace(self, suspended: Suspended) -> None:
        self._http.browsers.release(self._notes.browser, suspended)
        self.suspended = None
        # Never 408: browsers repeat a request on that.
        self.refuse(500, REPLACED.decode())

    def push(self, frame: bytes, *, one_of_many: bool) -> bool:  # noqa: ARG002 - the interface's
        return False

    def has_news(self, resident: Resident) -> None:
        pass

    def respond(self, events: Sequence[bytes], replies: Sequence[Reply], fields: Fields | None = None) -> bool:
        """Answer with messages; return False if the connection has ended."""
        body = encode(events, replies)
        if self.callback:
            body = script(self.callback, body)
        notes, request = self._notes, self._request
        if fields:
            return self._respond(200, [*notes.fields, *fields], body)
        self._http.metrics.answered(notes.path, 200)
        return request.respond_prepared(b"%b%b\r\n" % (notes.lines, notes.request_id or new_id()), body)

    def refuse(self, status: int, text: str, fields: Fields | None = None) -> None:
        """Answer with an error; no message was processed."""
        self._respond(status, [_TEXT, _NOSNIFF, *(fields or ())], text.encode())

    def _respond(self, status: int, fields: Fields, body: bytes) -> bool:
        request, notes = self._request, self._notes
        self._http.metrics.answered(notes.path, status)
        request_id = (b"x-request-id", notes.request_id or new_id())
        return request.respond(status, [*fields, request_id, *notes.cors], body)


def cometd_routes(http: CometdHttp) -> list[BaseRoute]:
    """Return the routes for requests without messages: CORS preflights, and methods that are not served.

    The whole subtree is one endpoint.
    """
    # No HEAD: a GET carries messages, and the response to HEAD would lose the replies.
    methods = ("GET", "OPTIONS", "POST") if http.has_callback_polling else ("OPTIONS", "POST")
    allow = {"Allow": ", ".join(methods)}

    class Questions:
        """ASGI application rather than a function: Starlette does not wrap it, and accepts any method."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope)
            if not http.origins.pass_(request):
                response = Response(FOREIGN, 403, media_type="text/plain")
            elif request.method == "OPTIONS":
                response = Response(status_code=204, headers=allow)
            else:
                text = OFF if request.method == "GET" else _NOT_SERVED
                response = Response(text, 405, allow, media_type="text/plain")
            await response(scope, receive, send)

    cors, questions = http.origins.middleware(methods), Questions()
    return [
        route
        for path in COMETD_PATHS
        for route in (
            Route(path, questions, middleware=cors),
            Route(f"{path}/{{suffix:path}}", questions, middleware=cors),
        )
    ]


def _begins(reply: Reply) -> bool:
    return reply.get("channel") == HANDSHAKE and reply.get("successful") is True


__all__ = ["Caller", "CallerClaim", "CometdHttp", "LongPoll", "path_of", "refused"]
